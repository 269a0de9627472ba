package show

import (
	"context"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// Forges answers for the connections to forges. Who may read a mirror may see its
// connection; administrators see and act on all.
type Forges interface {
	Connections(ctx context.Context, who access.Identity) ([]Connection, error)
	Connection(ctx context.Context, who access.Identity, name string) (Connection, error)
	// Publications are the repositories that are pushed to forges, of those whose
	// repository somebody may read.
	Publications(ctx context.Context, who access.Identity) ([]Publication, error)
	// Deliveries are the newest that a connection's webhook brought, newest first.
	Deliveries(ctx context.Context, who access.Identity, name string) ([]Delivery, error)
	// Replay processes a delivery again.
	Replay(ctx context.Context, who access.Identity, name string, delivery int64) (Done, error)
	// Connect says what to create at a forge, and with which rights; or with a token it
	// connects the repository there: secrets, server.yaml and webhook. Doing it again goes on.
	Connect(ctx context.Context, who access.Identity, c NewConnection, token secret.Value) (Connecting, error)
	// TestConnection asks the forge, as a poll does, and has it post a webhook. A
	// publication it has look at its forge.
	TestConnection(ctx context.Context, who access.Identity, name string) (Done, error)
	// TipLog is the log of the build of a gated branch that the forge has moved past
	// the gate; of the first one with branch "".
	TipLog(ctx context.Context, who access.Identity, name, branch string, follow bool) iter.Seq2[LogEvent, error]
}

// Connection is a connection to a repository of a forge, and how it is.
type Connection struct {
	Name       string `json:"connection"`
	Forge      string `json:"forge"`
	Repository string `json:"at_forge"`
	URL        string `json:"url"`
	Mirror     string `json:"repository"`
	Webhook    string `json:"webhook"` // its address, for the forge
	State      State  `json:"state"`   // healthy, failed, or unknown before the forge was first asked
	// Unset are the secrets that it names and that nobody has set.
	Unset        []string    `json:"unset_secrets,omitempty"`
	Secrets      []SecretUse `json:"secrets"` // of its webhook
	LastDelivery time.Time   `json:"last_delivery,omitzero"`
	Silent       Duration    `json:"silent_for,omitempty"` // since the last delivery
	LastSync     time.Time   `json:"last_sync,omitzero"`   // that the mirror was where the forge was
	NextPoll     time.Time   `json:"next_poll,omitzero"`
	Pending      int         `json:"pending"`
	Kept         int         `json:"kept"`
	Dropped      int64       `json:"dropped"`   // old deliveries that made room, since the start
	Recovered    int64       `json:"recovered"` // what a poll found, and no webhook told of: lost webhooks
	LastLost     time.Time   `json:"last_lost,omitzero"`
	Hook         string      `json:"webhook_at_forge,omitempty"` // on, off, none; empty when the forge does not say
	MayAct       bool        `json:"may_act"`                    // whoever asks may replay and test
	Left         int         `json:"refs_left_out,omitempty"`
	Follows      bool        `json:"follows_requests,omitempty"` // its pull or merge requests are built and landed
	Requests     int         `json:"open_requests,omitempty"`
	Tips         []Tip       `json:"tips,omitempty"` // gated branches that are where the forge has moved them, past the gate
	Failing      string      `json:"failing,omitempty"`
	RetryAt      time.Time   `json:"retry_at,omitzero"`
}

// SecretUse is a secret of a webhook and how many of the last deliveries were signed with it:
// one with which none is any more can be taken away.
type SecretUse struct {
	Name string    `json:"secret"`
	Used int       `json:"used"` // of the last 200
	Last time.Time `json:"last_used,omitzero"`
}

// HookWords says how the forge has the webhook, "" when it does not say.
func (c Connection) HookWords() string {
	switch c.Hook {
	case "on":
		return "switched on"
	case "off":
		return "switched off: switch it on there, or connect again with forge connect"
	case "none":
		return "not there: forge connect makes it"
	}
	return ""
}

// Publication is a repository of this server that is pushed to a forge, and how that is.
type Publication struct {
	Name       string    `json:"publication"`
	Forge      string    `json:"forge"`
	Repository string    `json:"repository"`
	URL        string    `json:"url"`
	State      State     `json:"state"` // healthy, failed, drift: somebody has moved something there; unknown at first
	Unset      []string  `json:"unset_secrets,omitempty"`
	Refs       int       `json:"refs"` // branches and tags that are to be there
	LastStep   time.Time `json:"last_in_step,omitzero"`
	NextLook   time.Time `json:"next_look,omitzero"`
	Moved      int64     `json:"moved"`              // refs there, since the start
	Diverged   []string  `json:"diverged,omitempty"` // refs there that somebody has moved, and that are left alone
	Left       int       `json:"refs_left_out,omitempty"`
	Failing    string    `json:"failing,omitempty"`
	RetryAt    time.Time `json:"retry_at,omitzero"`
}

// NewConnection is what somebody wants to connect. What is empty has a default.
type NewConnection struct {
	Name       string `json:"connection"`
	Forge      string `json:"forge"`
	Repository string `json:"at_forge"`
	URL        string `json:"url"`
	Mirror     string `json:"repository"`
	App        int64  `json:"app,omitempty"` // a GitHub App's, whose private key is shown in the place of a token
}

// Connecting is what became of it, or is to be done.
type Connecting struct {
	NewConnection
	Connected bool     `json:"connected"`
	Webhook   string   `json:"webhook"` // its address
	Steps     []string `json:"steps"`   // that are left, in order
}

// Tip is a gated branch of a mirror that its forge has moved past the gate, and what
// its build came to.
type Tip struct {
	Branch  string `json:"branch"`
	Commit  string `json:"commit"`
	State   State  `json:"state"` // queued, running, green, failed: red; waits: it cannot be built as it is
	Reason  string `json:"reason,omitempty"`
	Log     string `json:"log,omitempty"`
	Release int    `json:"release,omitempty"`
}

// Delivery is one webhook that came.
type Delivery struct {
	Connection string    `json:"connection"`
	Number     int64     `json:"delivery"`
	ID         string    `json:"id"` // the forge's
	Event      string    `json:"event"`
	At         time.Time `json:"at"`
	Secret     string    `json:"secret,omitempty"`   // the name of the one that it was signed with
	FromLog    bool      `json:"from_log,omitempty"` // it never came: the forge's own log has it
	Outcome    string    `json:"outcome"`            // pending, applied, ignored, failed
	Detail     string    `json:"detail,omitempty"`
	Duplicates int       `json:"duplicates,omitempty"` // how often it came again, since the start
}

// EventText is what it tells of, and how that is known if it never came.
func (d Delivery) EventText() string {
	if d.FromLog {
		return d.Event + " (lost, from the forge's log)"
	}
	return d.Event
}
