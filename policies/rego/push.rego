# May this user write this ref?
package headgate.push

# A set must stand in the answer even when it is empty: an undefined one would
# be a policy that says nothing, and that is a denial.
need := set()

deny contains {"rule": "read", "msg": "no such repository"} if not input.user.may_read

deny contains {"rule": "write", "msg": sprintf("%s may not write %s", [input.user.name, input.repository])} if {
	input.user.may_read
	not input.user.may_write
	not approves
}

# To push the open proposal to its environment writes nothing of one's own: it is
# an approval, and the query promote says whose counts. A group that is asked
# for approvals need not be one that may write.
approves if {
	input.class == "environment"
	input.approval
	not input["delete"]
}

# To delete what is proposed for an environment rejects it. Who may is for the
# server: who may write, and who is asked for approvals.
approves if rejects

rejects if {
	input.class == "environment"
	input.rejection
}

deny contains {"rule": "administrators", "msg": sprintf("%s is the server's configuration; only administrators write it", [input.repository])} if {
	input.own
	input.user.may_read
	not input.user.administrator
}

deny contains {"rule": "server-owned", "msg": sprintf("%s is written by the server alone", [input.ref])} if {
	input.class == "server"
}

deny contains {"rule": "environment", "msg": sprintf("%s is written by promotions alone", [input.ref])} if {
	input.class == "environment"
	not input.approval
	not rejects
}

deny contains {"rule": "gated-delete", "msg": sprintf("%s is gated and cannot be deleted", [input.ref])} if {
	input.class == "gated"
	input["delete"]
}

# Neither a proposal nor an environment is there to be deleted.
deny contains {"rule": "delete", "msg": sprintf("%s cannot be deleted", [input.ref])} if {
	input.class in {"proposal", "environment"}
	input["delete"]
	not rejects
}

deny contains {"rule": "gated-force", "msg": sprintf("%s is gated and never goes back; the push does not descend from its tip", [input.ref])} if {
	input.class == "gated"
	input.force
}

deny contains {"rule": "unknown-class", "msg": sprintf("nothing says who may write %s", [input.ref])} if {
	not input.class in {"plain", "gated", "proposal", "environment", "server"}
}

met contains {"rule": "write", "title": sprintf("%s may write %s", [input.user.name, input.repository])} if {
	input.user.may_write
}
