// Package reconciler carries releases from environment to environment, and
// keeps every environment what Git says it should be.
//
//   - An environment's declared state is the branch env/<name> of the repository:
//     one line of signed commits, each a promotion or a rollback (message.go).
//     What it may become next waits at promote/<name>, one commit ahead.
//   - Plan (plan.go) is the pure core: from what is declared, observed, proposed,
//     released and answered to what is to be done. It knows no clock and no disk.
//   - Reconciler.Run keeps one goroutine per environment (worker.go), the only
//     writer of that environment's branch, which looks, plans and acts until
//     nothing is left to do. It is woken by moves of refs, by reports of the
//     target, by exact timers, and once a minute in case all of that was lost.
//   - Approve, ApprovePush and Rollback are what people ask for; Environment,
//     Environments, Promotion, Why and LiveIn are what they want to know.
//   - Verify proves all of it again from a clone.
//
// Everything durable is a Git object under a ref; nothing here outlives a
// restart. The package leaves to others: who may log in, what landed and was
// released, what policies decide, and how a target converges.
package reconciler
