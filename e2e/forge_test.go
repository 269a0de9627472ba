package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/headgate-cd/headgate/e2e/forges"
)

// TestForges tells the stories of testdata/forges for each forge, with a stand-in; and
// with the Gitea or Forgejo that GITEA_BIN names, if it does.
func TestForges(t *testing.T) {
	t.Parallel()
	tell := func(name string, vars ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tellStories(t, filepath.Join("testdata", "forges"), vars...)
		})
	}
	for _, kind := range []string{"github", "gitea", "gitlab"} {
		tell(kind, "FORGE_KIND="+kind)
	}
	if program := os.Getenv("GITEA_BIN"); program != "" {
		tell("real-gitea", "FORGE_KIND=gitea", "FORGE_PROGRAM="+program)
	} else {
		t.Log("GITEA_BIN names no Gitea or Forgejo: these stories ran against stand-ins alone")
	}
}

// journeyForge is the one forge of all journeys, whose configurations name its
// address: nothing moves there.
var journeyForge = sync.OnceValues(func() (*forges.Forge, error) {
	root := filepath.Join(programs, "forge")
	f, err := forges.New("github", root, "")
	if err != nil {
		return nil, err
	}
	env := append(
		os.Environ(), append([]string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=f", "GIT_AUTHOR_EMAIL=f@example.com",
			"GIT_COMMITTER_NAME=f", "GIT_COMMITTER_EMAIL=f@example.com"}, sameCommits...)...)
	_, errs, err := within(waitTimeout, root, env, "sh", "-ec", `
		git init -q -b main clone
		cd clone
		git commit -q --allow-empty -m first
		git tag v1
		git push -q ../owner/name.git main v1 main:refs/heads/side`)
	if err != nil {
		err = fmt.Errorf("fill the forge: %w: %s", err, errs)
	}
	return f, err
})

// forgeCmd: forge TOKEN [KIND [SECRET]] starts a forge, whose repository is empty:
// $FORGE is its address, $FORGE_PUSH where a story pushes to, and $FORGE_DIR where it looks
// at what is there. With a secret it posts webhooks of what happens to requests, to the
// connection hub. A real one makes its own token: it is in the file token.
func forgeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 3 || neg {
		ts.Fatalf("usage: forge TOKEN [KIND [SECRET]]")
	}
	kind := "github"
	if len(args) > 1 {
		kind = args[1]
	}
	h := harnessOf(ts)
	secret := append(args, "", "")[2]
	if program := ts.Getenv("FORGE_PROGRAM"); program != "" {
		g, err := forges.OpenGitea(program, ts.MkAbs("forge"))
		ts.Check(err)
		ts.Defer(g.Close)
		if secret != "" {
			ts.Check(g.Watch(h.HTTP+"/webhooks/hub", secret))
		}
		h.forge = g
	} else {
		f, err := forges.New(kind, ts.MkAbs("forge"), args[0])
		ts.Check(err)
		ts.Defer(f.Close)
		h.forge, h.forgeSecret = f, secret
	}
	at := h.forge.Where()
	ts.Check(os.WriteFile(ts.MkAbs("token"), []byte(at.Token+"\n"), 0o600))
	ts.Setenv("FORGE", at.URL)
	ts.Setenv("FORGE_DIR", at.Dir)
	ts.Setenv("FORGE_PUSH", at.Push)
}

// hookCmd: hook CONNECTION ID [SECRET] posts a webhook of a push; its status and
// answer are stdout. It fails when the status is no success.
func hookCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) < 2 || len(args) > 3 || h.forge == nil {
		ts.Fatalf("usage: forge TOKEN, and then hook CONNECTION ID [SECRET]")
	}
	secret := ""
	if len(args) == 3 {
		secret = args[2]
	}
	address := h.HTTP + "/webhooks/" + args[0]
	if g, ok := h.forge.(*forges.Gitea); ok { // which says what became of it to nobody
		ts.Check(g.Post(address, secret))
		return
	}
	status, answer, err := h.forge.(*forges.Forge).Hook(address, args[1], secret, 0, 0)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", status, answer)
	if status/100 != 2 {
		err = errors.New(answer)
	}
	if (err != nil) != neg {
		ts.Fatalf("hook %v: %d %s", args, status, answer)
	}
}

// atForgeCmd does at the forge what people do there:
//
//	at-forge propose AUTHOR BRANCH [fork]   a request, or a push to one
//	at-forge say AUTHOR REQUEST TEXT        a comment
//	at-forge close REQUEST
//	at-forge merge AUTHOR REQUEST [squash]  by the forge's button
//	at-forge permit LOGIN LEVEL
//	at-forge break STATUS [RETRY-AFTER]     the next call of the API
//	at-forge install FILE                   a GitHub App, 4711, whose private key is in FILE
//	at-forge quiet                          no webhook comes any more
//
// "@name" is what is in the file called so.
func atForgeCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if h.forge == nil || len(args) == 0 || neg {
		ts.Fatalf("usage: forge TOKEN, and then at-forge WHAT …")
	}
	args = append(readIn(ts, args), "", "", "")
	standIn, _ := h.forge.(*forges.Forge)
	request, _ := strconv.Atoi(args[2])
	if args[0] == "close" {
		request, _ = strconv.Atoi(args[1])
	}
	comment := int64(0)
	switch args[0] {
	case "propose":
		r, err := h.forge.Propose(args[1], args[2], args[3] == "fork")
		ts.Check(err)
		request = r.Number
		fmt.Fprintln(ts.Stdout(), r.Number)
	case "say":
		var err error
		comment, err = h.forge.Say(args[1], request, strings.ReplaceAll(args[3], `\n`, "\n"))
		ts.Check(err)
	case "close":
		ts.Check(h.forge.CloseRequest(request))
	case "merge":
		ts.Check(h.forge.Merge(args[1], request, args[3] == "squash"))
	case "permit":
		ts.Check(h.forge.Permit(args[1], args[2]))
		return
	case "break":
		status, err := strconv.Atoi(args[1])
		ts.Check(err)
		if standIn == nil { // it goes wrong when it does
			return
		}
		standIn.Break(forges.Fault{Status: status, RetryAfter: args[2]})
		return
	case "install":
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{
			Type:  "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(key),
		}), 0o600))
		standIn.Install(forges.App{
			ID:           4711,
			Installation: 99,
			Key:          &key.PublicKey,
			Permissions: map[string]string{"metadata": "read", "contents": "write", "pull_requests": "write",
				"statuses": "write", "repository_hooks": "write"},
			Now: time.Now,
		})
		return
	case "quiet":
		h.forgeSecret = ""
		if g, ok := h.forge.(*forges.Gitea); ok {
			ts.Check(g.Watch(h.HTTP+"/webhooks/hub", ""))
		}
	default:
		ts.Fatalf("at-forge: unknown word %q", args[0])
	}
	if h.forgeSecret == "" || standIn == nil {
		return
	}
	status, answer, err := standIn.Hook(h.HTTP+"/webhooks/hub", fmt.Sprint("id-", time.Now().UnixNano()), h.forgeSecret,
		request, comment)
	ts.Check(err)
	if status/100 != 2 {
		ts.Fatalf("at-forge %v: %d %s", args, status, answer)
	}
}

// forgeShowsCmd: forge-shows status COMMIT | comments REQUEST | request REQUEST, REGEXP…
// waits until what the forge shows matches.
func forgeShowsCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if h.forge == nil || len(args) < 3 || neg {
		ts.Fatalf("usage: forge-shows status COMMIT REGEXP | comments REQUEST REGEXP | request REQUEST REGEXP")
	}
	args = readIn(ts, args)
	number, _ := strconv.Atoi(args[1])
	show := func() string {
		var b strings.Builder
		switch args[0] {
		case "status":
			if all := h.forge.Statuses(args[1]); len(all) > 0 {
				s := all[len(all)-1]
				fmt.Fprintf(&b, "%s: %s: %s %s", s.Context, s.State, s.Description, s.URL)
			}
		case "comments":
			for _, c := range h.forge.Comments(number) {
				fmt.Fprintf(&b, "%s: %s\n", c.Author, c.Body)
			}
		case "request":
			r, err := h.forge.Request(number)
			if err != nil {
				return err.Error() // not yet
			}
			fmt.Fprintf(&b, "%s: %s\n%s", r.State, r.Title, r.Body)
		}
		return b.String()
	}
	want, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	var last string
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		if last = show(); want.MatchString(last) {
			return
		}
	}
	all := ""
	switch f := h.forge.(type) {
	case *forges.Forge:
		all = fmt.Sprintf("%+v", f.Statuses(""))
	case *forges.Gitea:
		all = f.Log()
	}
	ts.Fatalf("forge-shows %v: it never did; last:\n%s\nall: %s\nserver:\n%s", args, last, all, h.tail())
}

// readIn puts the contents of files where words name them: "/land @tip".
func readIn(ts *testscript.TestScript, args []string) []string {
	read := slices.Clone(args)
	for i, arg := range read {
		if before, name, ok := strings.Cut(arg, "@"); ok && name != "" && !strings.ContainsAny(name, " :") {
			read[i] = before + strings.TrimSpace(ts.ReadFile(name))
		}
	}
	return read
}
