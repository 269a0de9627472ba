package headgate.exec_test

import data.headgate.exec

run := {
	"environment": {"name": "staging", "approvals": {"count": 0}},
	"service": "web", "command": ["sh"], "terminal": true,
	"user": {"name": "ada", "may_write": true, "administrator": false},
}

production := {"environment": {"name": "production", "approvals": {"count": 2}}}

denied(i) := {d.rule | some d in exec.deny with input as i}

test_by_a_writer_where_nobody_approves if {
	denied(run) == set()
	count(exec.need) == 0
	{m.rule | some m in exec.met with input as run} == {"write", "alone"}
}

test_by_a_reader if denied(object.union(run, {"user": {"may_write": false}})) == {"write"}

test_where_others_approve if denied(object.union(run, production)) == {"alone"}

test_by_an_administrator if {
	i := object.union(object.union(run, production), {"user": {"administrator": true}})
	denied(i) == set()
	{m.rule | some m in exec.met with input as i} == {"write", "alone"}
}
