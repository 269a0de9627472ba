package headgate.push_test

import data.headgate.push

ada := {"name": "ada", "may_read": true, "may_write": true}

plain := {"repository": "hello", "ref": "refs/heads/side", "class": "plain", "user": ada, "delete": false, "force": false, "approval": false}

rules(i) := {d.rule | some d in push.deny with input as i}

test_writer_writes if rules(plain) == set()

test_reader_does_not if rules(object.union(plain, {"user": {"may_write": false}})) == {"write"}

test_stranger_sees_nothing if rules(object.union(plain, {"user": {"may_read": false, "may_write": false}})) == {"read"}

test_server_owned if rules(object.union(plain, {"class": "server"})) == {"server-owned"}

test_environment if rules(object.union(plain, {"class": "environment"})) == {"environment"}

test_approval_by_push if rules(object.union(plain, {"class": "environment", "approval": true})) == set()

test_reader_may_approve_by_push if rules(object.union(plain, {"class": "environment", "approval": true, "user": {"may_write": false}})) == set()

test_reader_pushes_nothing_else_there if {
	rules(object.union(plain, {"class": "environment", "user": {"may_write": false}})) == {"write", "environment"}
	rules(object.union(plain, {"class": "environment", "approval": true, "delete": true, "user": {"may_write": false}})) == {"write", "delete"}
}

test_gated_may_be_proposed_to if rules(object.union(plain, {"class": "gated"})) == set()

test_gated_is_not_deleted if rules(object.union(plain, {"class": "gated", "delete": true})) == {"gated-delete"}

test_gated_is_not_forced if rules(object.union(plain, {"class": "gated", "force": true})) == {"gated-force"}

test_plain_may_be_forced if rules(object.union(plain, {"force": true, "delete": true})) == set()

test_proposal if rules(object.union(plain, {"class": "proposal", "force": true})) == set()

test_unknown_class if rules(object.union(plain, {"class": "other"})) == {"unknown-class"}

test_says_who_may if count(push.met) == 1 with input as plain

test_never_waits if count(push.need) == 0

test_only_administrators_configure_the_server if {
	rules(object.union(plain, {"own": true})) == {"administrators"}
	rules(object.union(plain, {"own": true, "user": {"administrator": true}})) == set()
}

test_deleting_what_is_proposed_rejects_it if {
	rules(object.union(plain, {"class": "environment", "rejection": true, "delete": true, "user": {"may_write": false}})) == set()
	rules(object.union(plain, {"class": "environment", "rejection": false, "delete": true})) == {"environment", "delete"}
}

test_proposals_and_environments_are_not_deleted if {
	rules(object.union(plain, {"class": "proposal", "delete": true})) == {"delete"}
	rules(object.union(plain, {"class": "environment", "approval": true, "delete": true})) == {"delete"}
}
