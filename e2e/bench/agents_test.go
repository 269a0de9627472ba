package bench

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// manyAgents are connected, and have nothing to do.
const manyAgents = 1000

// idleFor is how long the server is looked at while they do nothing.
const idleFor = 15 * time.Second

// BenchmarkAgents: what a thousand agents of other machines cost the server while nothing
// happens, and how long after a landing one of them is told.
func BenchmarkAgents(b *testing.B) {
	w := newHarness(b)
	files := buildspec("true")
	files["buildspec.yml"] += "artifacts: {files: [\"**/*\"]}\n"
	files["headgate.yaml"] = "environments: {production: {target: hosts, path: deploy}}\n"
	files["deploy/hosts.yaml"] = "tags: {role: web}\n"
	files["deploy/appspec.yml"] = "version: 0.0\nos: linux\n"
	w.serve(b, files)
	idle := w.memory()

	var seeds, yaml strings.Builder
	yaml.WriteString("\nagents:\n")
	for i := range manyAgents {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			b.Fatal(err)
		}
		key, err := ssh.NewPublicKey(private.Public())
		if err != nil {
			b.Fatal(err)
		}
		role := "idle"
		if i == 0 {
			role = "web"
		}
		fmt.Fprintln(&seeds, base64.StdEncoding.EncodeToString(private.Seed()))
		fmt.Fprintf(&yaml, "  m-%d: {key: %q, tags: {role: %s}}\n", i,
			strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), role)
	}
	own := &clone{w: w, dir: path(w.dir, "own")}
	w.run(b, w.dir, "git", "clone", "-q", "ssh://"+w.SSH+"/headgate", own.dir)
	config, err := os.OpenFile(path(own.dir, "server.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = config.WriteString(yaml.String())
	}
	if err != nil {
		b.Fatal(err)
	}
	config.Close()
	own.git(b, "commit", "-qam", "Have agents")
	own.git(b, "push", "-q", "origin", "HEAD:main")

	var host string
	for line := range strings.Lines(w.run(b, w.dir, "ssh-keyscan", scanned(w.SSH)...)) {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line[strings.Index(line, " ")+1:])); err == nil {
			host = ssh.FingerprintSHA256(key)
		}
	}
	program := path(w.dir, "agents")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", program, "./agents").CombinedOutput(); err != nil {
		b.Fatalf("build the agents: %v\n%s", err, out)
	}
	agents := exec.Command(program, w.SSH, host)
	agents.Stdin, agents.Stderr = strings.NewReader(seeds.String()), os.Stderr
	out, err := agents.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	start(b, agents)
	told := bufio.NewScanner(out)
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(time.Second) {
		out := w.run(b, w.dir, "ssh", w.login(w.SSH, "agent", "list", "--json")...)
		n := strings.Count(out, `"connected":true`)
		if n == manyAgents {
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d agents are connected\n%s", n, manyAgents, w.tail())
		}
	}
	before := w.cpu(b)
	time.Sleep(idleFor) // what is measured
	busy := 100 * (w.cpu(b) - before).Seconds() / idleFor.Seconds()
	memory := w.memory() - idle

	c := w.headgate(b, "shop")
	notices := newSamples(1)
	for i := range *runs + warm {
		c.commit(b, i)
		c.git(b, "push", "-q", "origin", "HEAD:main")
		if !told.Scan() {
			b.Fatal("the agents have ended: ", told.Err())
		}
		at, err := time.Parse(time.RFC3339Nano, told.Text())
		if err != nil {
			b.Fatal(err)
		}
		if i >= warm {
			notices.add(0, at.Sub(w.logged(b, "change landed")))
		}
	}
	t := newTable(fmt.Sprintf("%d idle agents of other machines", manyAgents))
	t.row("landed to the notice of an agent", notices.of(0))
	t.print()
	p95 := ms(notices.of(0).p(95))
	fmt.Printf("  p95 %.0f ms (goal: at most 200 ms): %s\n", p95, met(p95 <= 200))
	fmt.Printf("  the server has %.0f MiB more (goal: at most 150 MiB): %s\n", memory, met(memory <= 150))
	fmt.Printf("  and takes %.1f %% of a core while nothing happens (goal: at most 5 %%): %s\n", busy, met(busy <= 5))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(memory, "MiB")
	b.ReportMetric(busy, "%-core")
	b.ReportMetric(p95, "notice-p95-ms")
}

// scanned is what ssh-keyscan takes for an address.
func scanned(address string) []string {
	host, port, _ := strings.Cut(address, ":")
	return []string{"-t", "ed25519", "-p", port, host}
}
