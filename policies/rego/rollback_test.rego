package headgate.rollback_test

import data.headgate.rollback

back := {
	"environment": "production",
	"release": {"number": 3}, "current_release": 4, "was_healthy": true,
	"user": {"name": "ada", "may_write": true},
	"provenance_verifies": true, "verify_error": "",
}

denied(i) := {d.rule | some d in rollback.deny with input as i}

test_waits_for_nobody if {
	denied(back) == set()
	count(rollback.need) == 0
	{m.rule | some m in rollback.met with input as back} == {"provenance", "healthy", "write"}
}

test_to_what_was_never_healthy if denied(object.union(back, {"was_healthy": false})) == {"healthy"}

test_by_a_reader if denied(object.union(back, {"user": {"may_write": false}})) == {"write"}

test_needs_provenance if denied(object.union(back, {"provenance_verifies": false})) == {"provenance"}

test_goes_back_only if {
	denied(object.union(back, {"current_release": 3})) == {"backwards"}
	denied(object.union(back, {"current_release": 2})) == {"backwards"}
}
