package headgate.promote_test

import data.headgate.promote

user(name, groups) := {"name": name, "groups": groups, "may_write": true}

yes(name, groups, tree) := {"user": name, "groups": groups, "may_write": true, "tree": tree}

base := {
	"now": "2026-11-24T12:00:00Z",
	"environment": {"name": "production", "after": "staging", "soak_seconds": 0, "approvals": {"count": 1, "from": "", "own": false}},
	"release": {"number": 3},
	"tree": "t3",
	"authors": ["ada"],
	"approvals": [yes("jun", [], "t3")],
	"candidates": [user("ada", ["release"]), user("jun", []), user("sam", ["release"])],
	"current_release": 2,
	"upstream": {"release": 3, "healthy": true, "healthy_since": "2026-11-24T11:00:00Z"},
	"hold": null,
	"provenance_verifies": true,
	"verify_error": "",
}

noon := time.parse_rfc3339_ns("2026-11-24T12:00:00Z")

denied(i) := {d.rule | some d in promote.deny with input as i}

open(i) := {n.rule | some n in promote.need with input as i with time.now_ns as noon}

with_env(e) := object.union(base, {"environment": e})

test_all_met if {
	denied(base) == set()
	open(base) == set()
	{m.rule | some m in promote.met with input as base} == {"provenance", "after", "approvals"}
}

test_unverified_is_denied if denied(object.union(base, {"provenance_verifies": false, "verify_error": "no signature"})) == {"provenance"}

test_upstream_unhealthy_waits if open(object.union(base, {"upstream": {"healthy": false}})) == {"after"}

test_upstream_runs_another if open(object.union(base, {"upstream": {"release": 2}})) == {"after"}

test_upstream_unknown if open(object.union(base, {"upstream": null})) == {"after"}

test_first_environment_waits_for_none if open(object.union(with_env({"after": ""}), {"upstream": null})) == set()

test_soak_waits_until_exactly if {
	i := with_env({"soak_seconds": 7200})
	open(i) == {"soak"}
	{n.at | some n in promote.need with input as i with time.now_ns as noon} == {"2026-11-24T13:00:00Z"}
}

test_soak_met_on_the_second if open(with_env({"soak_seconds": 3600})) == set()

test_soak_not_met_a_moment_before if {
	i := with_env({"soak_seconds": 3600})
	{n.rule | some n in promote.need with input as i with time.now_ns as noon - 1} == {"soak"}
}

test_soak_begins_with_health if {
	i := object.union(with_env({"soak_seconds": 90}), {"upstream": {"healthy": false}})
	open(i) == {"after", "soak"}
}

test_soak_met_is_said if {
	i := with_env({"soak_seconds": 60})
	"soak" in {m.rule | some m in promote.met with input as i with time.now_ns as noon}
}

# Found by review: health without a moment let the soak pass unnoticed.
test_soak_without_a_beginning_waits if {
	up := {"release": 3, "healthy": true}
	i := object.union(object.remove(with_env({"soak_seconds": 60}), ["upstream"]), {"upstream": up})
	open(i) == {"soak"}
	{n | some n in promote.need with input as i; n.at} == set()
}

test_soak_end_is_exact if {
	i := object.union(with_env({"soak_seconds": 3600}), {"upstream": {"healthy_since": "2026-11-24T11:30:00.123456789Z"}})
	{n.at | some n in promote.need with input as i with time.now_ns as noon} == {"2026-11-24T12:30:00.123456789Z"}
}

# Newer releases came: what this one ran counts, and what they run.
test_soak_goes_on_after_newer_ones if {
	up := {"release": 5, "healthy": true, "soaked_seconds": 3000, "healthy_since": "2026-11-24T11:50:00Z"}
	open(object.union(with_env({"soak_seconds": 3600}), {"upstream": up})) == set()
	i := object.union(with_env({"soak_seconds": 3660}), {"upstream": up})
	{n.at | some n in promote.need with input as i with time.now_ns as noon} == {"2026-11-24T12:01:00Z"}
}

test_soak_stands_still_while_a_newer_one_fails if {
	up := {"release": 5, "healthy": true, "soaked_seconds": 3000}
	failed := object.union(object.remove(base, ["upstream"]), {"upstream": up})
	open(object.union(failed, {"environment": {"soak_seconds": 3000}})) == set()
	i := object.union(failed, {"environment": {"soak_seconds": 3600}})
	open(i) == {"soak"}
	some n in promote.need with input as i with time.now_ns as noon
	n.msg == "soak of 1 h goes on, after 50 min, when staging is healthy"
}

# When it ends is said once: whoever shows it has one form for all times.
test_soak_says_its_end_as_a_fact if {
	i := with_env({"soak_seconds": 86400})
	some n in promote.need with input as i with time.now_ns as noon
	n.msg == "not yet 24 h healthy in staging"
	n.at == "2026-11-25T11:00:00Z"
}

test_nobody_has_approved if {
	i := object.union(base, {"approvals": []})
	open(i) == {"approvals"}
	some n in promote.need with input as i with time.now_ns as noon
	n.count == 1
	{w | some w in n.who} == {"jun", "sam"}
	n.cannot == ["ada"]
	startswith(n.msg, "1 approval missing, from jun or sam")
}

test_fewer_than_are_missing_may_approve if {
	i := object.union(with_env({"approvals": {"count": 3}}), {"approvals": []})
	some n in promote.need with input as i with time.now_ns as noon
	startswith(n.msg, "3 approvals missing, and only jun, sam may still give one")
}

test_own_approval_does_not_count if open(object.union(base, {"approvals": [yes("ada", [], "t3")]})) == {"approvals"}

test_own_approval_counts_where_allowed if {
	open(object.union(with_env({"approvals": {"own": true}}), {"approvals": [yes("ada", [], "t3")]})) == set()
}

test_approval_of_another_content_does_not_count if open(object.union(base, {"approvals": [yes("jun", [], "t2")]})) == {"approvals"}

test_outdated_approval_is_said if {
	i := object.union(base, {"approvals": [yes("jun", [], "t2")]})
	some n in promote.need with input as i with time.now_ns as noon
	endswith(n.msg, "; jun approved something else before")
}

test_stale_approval_does_not_count if open(object.union(base, {"approvals": [object.union(yes("jun", [], "t3"), {"stale": true})]})) == {"approvals"}

test_approval_of_no_content_does_not_count if {
	open(object.union(base, {"tree": "", "approvals": [yes("jun", [], "")]})) == {"approvals"}
}

test_approval_by_nobody_does_not_count if open(object.union(base, {"approvals": [yes("", [], "t3")]})) == {"approvals"}

test_the_same_person_twice_is_one if {
	i := object.union(with_env({"approvals": {"count": 2}}), {"approvals": [yes("jun", [], "t3"), yes("jun", [], "t3")]})
	open(i) == {"approvals"}
}

test_two_people if {
	i := object.union(with_env({"approvals": {"count": 2}}), {"approvals": [yes("jun", [], "t3"), yes("sam", [], "t3")]})
	open(i) == set()
}

change(n, authors) := {"changes": [n], "authors": authors}

# Two authors cover each other's changes.
both := object.union(base, {"authors": ["ada", "jun"], "carries": [change(4, ["ada"]), change(5, ["jun"])]})

by(names) := object.union(both, {"approvals": [yes(n, [], "t3") | some n in names]})

test_two_authors_approve_together if {
	open(by(["ada"])) == {"approvals"}
	open(by(["jun"])) == {"approvals"}
	open(by(["ada", "jun"])) == set()
	open(by(["sam"])) == set()
}

test_one_yes_does_not_do_for_all if {
	i := object.union(by([]), {"candidates": [user("ada", []), user("jun", [])]})
	some n in promote.need with input as i with time.now_ns as noon
	n.count == 2
	n.cannot == []
	startswith(n.msg, "2 approvals missing, from ada or jun; change 4 by ada needs jun; change 5 by jun needs ada")
}

test_what_is_left_is_said if {
	i := object.union(by(["jun"]), {"candidates": [user("ada", []), user("jun", [])]})
	some n in promote.need with input as i with time.now_ns as noon
	n.count == 1
	{w | some w in n.who} == {"ada"}
	contains(n.msg, "change 5 by jun needs ada")
}

test_a_change_of_everybody_is_nobodys if {
	i := object.union(by(["ada", "jun"]), {
		"carries": [change(4, ["ada"]), change(5, ["ada", "jun"])],
		"candidates": [user("ada", []), user("jun", [])],
	})
	some n in promote.need with input as i with time.now_ns as noon
	n.count == 1
	n.who == []
	contains(n.msg, "nobody may give it; change 5 by ada, jun needs somebody else")
}

test_each_change_needs_as_many if {
	i := object.union(by(["ada", "jun"]), {"environment": {"approvals": {"count": 2}}})
	open(i) == {"approvals"}
	open(object.union(i, {"approvals": [yes(n, [], "t3") | some n in ["ada", "jun", "sam"]]})) == set()
}

test_group_is_asked if {
	i := with_env({"approvals": {"from": "release"}})
	open(i) == {"approvals"}
	open(object.union(i, {"approvals": [yes("sam", ["release"], "t3")]})) == set()
}

test_nobody_may if {
	i := object.union(with_env({"approvals": {"from": "nobody"}}), {"approvals": []})
	some n in promote.need with input as i with time.now_ns as noon
	contains(n.msg, "nobody may give it")
}

test_a_reader_does_not_count if {
	open(object.union(base, {"approvals": [object.union(yes("jun", [], "t3"), {"may_write": false})]})) == {"approvals"}
}

test_no_approvals_asked if {
	open(object.union(with_env({"approvals": {"count": 0}}), {"approvals": []})) == set()
}

held := object.union(with_env({"approvals": {"count": 0}}), {"hold": {"by": "sam", "reason": "5xx"}})

test_hold_stops_what_is_automatic if open(object.union(held, {"approvals": []})) == {"hold"}

test_hold_says_why if {
	msgs(object.union(held, {"approvals": []})) == {"held by sam: 5xx; approving this promotes forward and lifts it"}
	msgs(object.union(held, {"approvals": [], "hold": {"by": "sam", "reason": ""}})) == {"held by sam; approving this promotes forward and lifts it"}
}

msgs(i) := {n.msg | some n in promote.need with input as i}

test_hold_is_lifted_by_a_person if {
	open(held) == set()
	"hold" in {m.rule | some m in promote.met with input as held}
}

test_hold_is_not_lifted_by_an_old_approval if open(object.union(held, {"approvals": [yes("jun", [], "t2")]})) == {"hold"}

test_hold_is_lifted_by_an_approval_that_counts if {
	groups := {"count": 1, "from": "release", "own": false}
	i := object.union(held, {"environment": {"approvals": groups}, "approvals": [object.union(yes("sam", ["release"], "t3"), {"may_write": false})]})
	open(i) == set()
}

test_hold_and_approvals_ask_once if {
	i := object.union(object.union(held, {"environment": {"approvals": {"count": 1}}}), {"approvals": []})
	open(i) == {"hold", "approvals"}
	{[n.rule, n.count] | some n in promote.need with input as i with time.now_ns as noon} == {["hold", 0], ["approvals", 1]}
}

test_backwards_is_a_rollback if {
	denied(object.union(base, {"current_release": 4})) == {"backwards"}
	denied(object.union(base, {"current_release": 3})) == set()
}

leaving := object.union(base, {"removal": true, "release": {"number": 0}, "upstream": {"healthy": false}})

test_a_removal_waits_for_people_only if {
	denied(leaving) == set()
	open(leaving) == set()
	open(object.union(leaving, {"approvals": []})) == {"approvals"}
	open(object.union(leaving, {"approvals": [yes("ada", [], "t3")]})) == {"approvals"}
}

test_spans if {
	promote.span(7200) == "2 h"
	promote.span(600) == "10 min"
	promote.span(90) == "90 s"
}
