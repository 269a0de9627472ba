# May this candidate become the tip of the gated branch?
package headgate.land

need := set()

deny contains {"rule": "verdict", "msg": sprintf("tree %s has no green verdict", [substring(input.tree, 0, 7)])} if not green

deny contains {"rule": "write", "msg": sprintf("%s may not write %s any more", [input.user.name, input.repository])} if {
	not input.user.may_write
}

deny contains {"rule": "administrators", "msg": sprintf("%s is the server's configuration, and %s is no administrator any more", [input.repository, input.user.name])} if {
	input.own
	not input.user.administrator
}

# A verdict counts for exactly the tree it was given to.
green if {
	input.verdict.result == "green"
	input.tree != ""
	input.verdict.tree == input.tree
}

met contains {"rule": "verdict", "title": "Green", "detail": sprintf("tree %s", [substring(input.tree, 0, 7)])} if green

met contains {"rule": "write", "title": sprintf("%s may write %s", [input.user.name, input.repository])} if {
	input.user.may_write
}
