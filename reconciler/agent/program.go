package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Offer is a program that a server elsewhere has an agent go on with: the server's own, or
// one of the same build.
type Offer struct {
	Build     string `json:"build"`    // what it was built of, as DigestOf says
	Digest    string `json:"digest"`   // of its bytes, "sha256:..."
	Size      int64  `json:"size"`     // in bytes
	Platform  string `json:"platform"` // that it runs on
	Key       string `json:"key"`      // that has signed this, as the line of a .pub file
	Signature []byte `json:"signature"`
}

// pathProgram is where an agent of a server elsewhere takes programs.
const pathProgram = "/v1/program" // POST an Offer; 503 while it cannot, 204 once another worker takes over

// Platform is what programs have to be for that run here.
const Platform = runtime.GOOS + "/" + runtime.GOARCH

const maxProgramSize = 512 << 20

// Sign has an offer be good for one connection alone, by its session, and no other one.
func (o *Offer) Sign(signer *repo.Signer, session []byte) (err error) {
	o.Key = string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	o.Signature, err = signer.SignRaw(o.statement(session))
	return err
}

// statement is what is signed: it can be nothing else that is signed with such a key.
func (o *Offer) statement(session []byte) []byte {
	said := fmt.Sprintf("headgate agent program\x00%s\x00%s\x00%s\x00%d\x00", o.Build, o.Digest, o.Platform, o.Size)
	return append([]byte(said), session...)
}

// verify refuses what is not signed by the key that counts.
func (o *Offer) verify(keys Keys, session []byte) error {
	key, err := access.ParseKey(o.Key)
	if err != nil {
		return fmt.Errorf("the key of the program %w", err)
	}
	if is := ssh.FingerprintSHA256(key.Public); keys.Signing == "" || is != keys.Signing {
		return fmt.Errorf("the program is signed by %s, and the key of the server is %s", is, keys.Signing)
	}
	if err := (repo.Signers{key.Public}).VerifyRaw(o.statement(session), o.Signature); err != nil {
		return fmt.Errorf("the program %w", err)
	}
	if o.Platform != Platform {
		return fmt.Errorf("the program is for %s, and this machine is %s", o.Platform, Platform)
	}
	if o.Size <= 0 || o.Size > maxProgramSize {
		return fmt.Errorf("a program of %d bytes is none", o.Size)
	}
	return nil
}

// ErrDeploying is that an agent does not take another program just now.
var ErrDeploying = errors.New("something is deployed there just now")

// Offer has an agent on another machine go on with a program, and returns when it has
// fetched it and another worker takes over; or, as likely, when the connection has ended
// with the worker before: the error is ErrAway then. It is ErrDeploying when the program is to
// be offered later.
func (c Client) Offer(ctx context.Context, o Offer) error {
	_, err := c.do(ctx, http.MethodPost, pathProgram, o)
	var unanswered *url.Error
	switch {
	case errors.Is(err, errUnavailable):
		return ErrDeploying
	case errors.As(err, &unanswered):
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// takeProgram has a program that the server offers work in this one's place, on trial.
func (w *Worker) takeProgram(ctx context.Context, o Offer) error {
	w.proving.Lock()
	keys := w.Uplink.Keys
	w.proving.Unlock()
	if err := o.verify(keys, w.Uplink.session()); err != nil {
		w.Log.Error("refused a program that the server offers", "build", o.Build, "err", err)
		return err
	}
	if o.Build == w.digest {
		return nil
	}
	if w.deploying() {
		return ErrDeploying
	}
	w.Log.Info("the server has another program, fetching it", "build", o.Build, "bytes", o.Size)
	path, err := w.Receive(ctx, o.Digest, o.Size)
	if err != nil {
		return fmt.Errorf("fetch the program: %w", err)
	}
	build, err := DigestOf(path)
	if err == nil && build != o.Build {
		err = fmt.Errorf("the program is %s, and not %s as was said", build, o.Build)
	}
	if err != nil {
		return err
	}
	crash.Point("agent.program-received")
	if w.deploying() { // by now
		return ErrDeploying
	}
	_, err = w.channel.ask(message{Op: opUpgrade, Program: path, Trial: true})
	return err
}

// deploying reports whether a script may run that the end of this worker would end.
func (w *Worker) deploying() bool {
	for _, k := range w.Hosts.Keys() {
		if w.Hosts.Observe(k).State == target.Converging {
			return true
		}
	}
	return false
}

// reported notes that the server has heard this worker: its program is good.
func (w *Worker) reported() {
	if w.trial {
		crash.Point("agent.program-reporting")
		_ = w.channel.say(message{Op: opReported}) // its end is heard
	}
}

// programName is the file of an agent's directory that says which program works, when
// that is another one than the supervisor's own.
const programName = "program.json"

// keptProgram is that file.
type keptProgram struct {
	Version int `json:"version"`
	// Own is the build of the supervisor's own program by then. When that is another one,
	// somebody has installed it, and it is the one that is meant.
	Own  string `json:"own"`
	Path string `json:"path,omitempty"` // "": its own
	// Refused is the build that was on trial last and did not pass, and Why.
	Refused string `json:"refused,omitempty"`
	Why     string `json:"why,omitempty"`
}

// readProgram reads what is kept. What cannot be read is as good as nothing: the supervisor's
// own program works.
func readProgram(dir string) (k keptProgram) {
	data, err := os.ReadFile(filepath.Join(dir, programName))
	if err != nil || json.Unmarshal(data, &k) != nil || k.Version != 1 {
		return keptProgram{}
	}
	return k
}

// openKept opens the program that is to work, nil for the supervisor's own.
func (s *Supervisor) openKept() *os.File {
	if s.kept.Path == "" {
		return nil
	}
	f, err := os.Open(s.kept.Path)
	if err != nil {
		s.Log.Error("the program that worked last is not there, going on with this one", "err", err)
		return nil
	}
	return f
}

// keepProgram notes, durably, which program works and which does not.
func (s *Supervisor) keepProgram(k keptProgram) {
	k.Version, k.Own = 1, s.build
	data, err := json.Marshal(k)
	if err == nil {
		err = repo.WriteFile(filepath.Join(s.Dir, programName), append(data, '\n'), 0o600)
	}
	if err != nil {
		s.Log.Error("cannot note which program works", "err", err)
		return
	}
	s.kept = k
	crash.Point("agent.program-noted")
	if k.Path != "" {
		s.removeOthers(k.Path)
	}
}

// removeOthers removes the programs beside one, which nothing is started from any more.
func (s *Supervisor) removeOthers(path string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if e.Name() == filepath.Base(path) || !e.Type().IsRegular() {
			continue
		}
		if gone := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	if err != nil {
		s.Log.Warn("a program that is of no use any more stays", "err", err)
	}
}

// trial is that a program works of which it is not known yet that it reaches the server.
type trial struct {
	before *os.File // the program that did
	path   string
	build  string
}

// passed keeps the program that was on trial.
func (s *Supervisor) passed(t *trial) {
	s.Log.Info("the program on trial has reported, and is kept", "build", t.build)
	s.keepProgram(keptProgram{Path: t.path})
	if t.before != s.own {
		t.before.Close()
	}
}

// refuse notes that a program did not pass. What worked before does again.
func (s *Supervisor) refuse(build string, why error) {
	s.Log.Error("a program on trial does not work, going on with the one before", "build", build, "err", why)
	s.keepProgram(keptProgram{Path: s.kept.Path, Refused: build, Why: why.Error()})
}
