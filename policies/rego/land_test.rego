package headgate.land_test

import data.headgate.land

good := {"repository": "hello", "tree": "aaaaaaaaaa", "user": {"name": "ada", "may_write": true}, "verdict": {"result": "green", "tree": "aaaaaaaaaa"}}

rules(i) := {d.rule | some d in land.deny with input as i}

test_green_lands if rules(good) == set()

test_red_does_not if rules(object.union(good, {"verdict": {"result": "red"}})) == {"verdict"}

test_another_trees_green_does_not if rules(object.union(good, {"verdict": {"tree": "bbbbbbbbbb"}})) == {"verdict"}

test_no_verdict_does_not if rules(object.remove(good, ["verdict"])) == {"verdict"}

test_rights_are_those_of_now if rules(object.union(good, {"user": {"may_write": false}})) == {"write"}

test_says_what_is_met if {m.rule | some m in land.met with input as good} == {"verdict", "write"}

test_never_waits if count(land.need) == 0

test_green_of_nothing_does_not if rules(object.union(good, {"tree": "", "verdict": {"tree": ""}})) == {"verdict"}

test_only_administrators_configure_the_server if {
	rules(object.union(good, {"own": true})) == {"administrators"}
	rules(object.union(good, {"own": true, "user": {"administrator": true}})) == set()
}
