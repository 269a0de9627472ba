# May this environment go back to a release that was healthy there? By default
# yes, for whoever may write: a way out must not wait for what closes the way on,
# such as a freeze. So this is a query of its own.
package headgate.rollback

need := set()

deny contains {
	"rule": "provenance", "title": "Provenance verifies",
	"msg": sprintf("release %d does not verify: %s", [input.release.number, input.verify_error]),
} if {
	not input.provenance_verifies
}

met contains {"rule": "provenance", "title": "Provenance verifies"} if input.provenance_verifies

deny contains {
	"rule": "backwards", "title": "Goes back",
	"msg": sprintf("release %d is not older than release %d, which is declared; going on is a promotion", [input.release.number, input.current_release]),
} if {
	input.release.number >= input.current_release
}

deny contains {
	"rule": "healthy", "title": "A release that was healthy here",
	"msg": sprintf("release %d was never healthy here to the end", [input.release.number]),
} if {
	not input.was_healthy
}

met contains {"rule": "healthy", "title": "A release that was healthy here"} if input.was_healthy

deny contains {"rule": "write", "title": "By somebody who may write", "msg": "only who may write the repository may roll back"} if {
	not input.user.may_write
}

met contains {"rule": "write", "title": "By somebody who may write", "detail": input.user.name} if input.user.may_write
