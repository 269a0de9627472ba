# May this person run a command where a service of this environment runs? By default
# who could have it run there alone, by a push: where promotions wait for nobody's yes,
# whoever may write; elsewhere an administrator. Anything but auto means no.
package headgate.exec

need := set()

deny contains {"rule": "write", "title": "By somebody who may write", "msg": "only who may write the repository may run commands"} if {
	not input.user.may_write
}

met contains {"rule": "write", "title": "By somebody who may write", "detail": input.user.name} if input.user.may_write

deny contains {
	"rule": "alone", "title": "What one person may do here alone",
	"msg": sprintf("promotions to %s need %d approval(s), so only an administrator may run commands there", [input.environment.name, input.environment.approvals.count]),
} if {
	input.environment.approvals.count > 0
	not input.user.administrator
}

met contains {"rule": "alone", "title": "What one person may do here alone"} if input.environment.approvals.count == 0

met contains {"rule": "alone", "title": "What one person may do here alone", "detail": "an administrator"} if {
	input.environment.approvals.count > 0
	input.user.administrator
}
