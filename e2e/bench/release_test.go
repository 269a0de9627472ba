package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What BenchmarkRelease deploys, and to how many.
const (
	releasedTo    = 50
	releasedFiles = 200
	releasedBytes = 20 << 20
)

// BenchmarkRelease: how long a release of 20 MB takes from the server to 50 agents of one
// machine, each with its own folders, against `cp -r` of what it installs, 50 times.
func BenchmarkRelease(b *testing.B) {
	w := newHarness(b)
	own := path(w.dir, "machine") // where each agent sees a folder of its own
	files := buildspec(fmt.Sprintf("mkdir app && for i in $(seq %d); do head -c %d /dev/urandom >app/$i; done",
		releasedFiles, releasedBytes/releasedFiles))
	files["buildspec.yml"] += "artifacts: {files: [\"app/**/*\"]}\n"
	files["headgate.yaml"] = "environments: {production: {target: hosts, path: deploy}}\n"
	files["deploy/hosts.yaml"] = "tags: {role: web}\ndeployment: AllAtOnce\n"
	files["deploy/appspec.yml"] = "version: 0.0\nos: linux\nfiles: [{source: app, destination: " + own + "/app}]\n"
	w.serve(b, files)
	if err := os.Mkdir(own, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range releasedTo {
		w.agent(b, fmt.Sprintf("m-%d", i), own)
	}
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(time.Second) {
		out := w.run(b, w.dir, "ssh", w.login(w.SSH, "agent", "list", "--json")...)
		n := strings.Count(out, `"connected":true`)
		if n == releasedTo {
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d agents are connected\n%s", n, releasedTo, w.tail())
		}
	}

	w.headgate(b, "shop").git(b, "push", "-q", "origin", "HEAD:main")
	var last time.Time
	for i := range releasedTo {
		log := path(w.dir, "machines", fmt.Sprintf("m-%d", i), "log")
		for deadline := time.Now().Add(waitTimeout); ; time.Sleep(100 * time.Millisecond) {
			if all := records(b, log, "deployed"); len(all) > 0 {
				if all[0].Status != "succeeded" {
					b.Fatalf("m-%d: %+v", i, all[0])
				}
				if at := all[0].Time; at.After(last) {
					last = at
				}
				break
			}
			if time.Now().After(deadline) {
				text, _ := os.ReadFile(log) // it helps people only
				b.Fatalf("nothing is deployed on m-%d\n%s\n%s", i, text, w.tail())
			}
		}
	}
	took := last.Sub(records(b, path(w.dir, "server.log"), "a host is deployed to")[0].Time)

	began := time.Now()
	w.run(b, w.dir, "sh", "-c", fmt.Sprintf(
		"mkdir copies && for i in $(seq %d); do cp -r machines/m-0/app copies/$i || exit; done", releasedTo))
	copied := time.Since(began)
	w.run(b, w.dir, "diff", "-r", path(w.dir, "machines", fmt.Sprintf("m-%d", releasedTo-1), "app"), path(w.dir, "copies", "1"))

	ratio := took.Seconds() / copied.Seconds()
	fmt.Printf("  %d MB in %d files to %d agents took %.1f s, to copy it as often %.1f s\n", releasedBytes>>20, releasedFiles,
		releasedTo, took.Seconds(), copied.Seconds())
	fmt.Printf("  ratio %.2f (goal: at most 1.5): %s\n", ratio, met(ratio <= 1.5))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(ratio, "x-cp")
}

// agent enrols and starts an agent, for which own is a folder that no other one sees.
func (w *harness) agent(b *testing.B, name, own string) {
	b.Helper()
	line := w.run(b, w.dir, "ssh", w.login(w.SSH, "agent", "enrol", "--name", name, "--tag", "role=web")...)
	word := func(form string) string {
		found := regexp.MustCompile(form).FindStringSubmatch(line)
		if found == nil {
			b.Fatalf("no %s in %s", form, line)
		}
		return found[1]
	}
	dir := path(w.dir, "machines", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	program := path(built(b), "headgate")
	join := exec.Command(program, "agent", "join", "--data", path(dir, "data"), "--server", w.SSH,
		"--host-key", word(`--host-key (SHA256:\S+)`), "--signing-key", word(`--signing-key (SHA256:\S+)`))
	join.Stdin = strings.NewReader(word(`(hgenrol_[\w.-]+)`))
	if out, err := join.CombinedOutput(); err != nil {
		b.Fatalf("join: %v\n%s", err, out)
	}
	log, err := os.OpenFile(path(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close() // the child has its own
	alone := "-m"
	if os.Geteuid() != 0 {
		alone = "-rm"
	}
	cmd := exec.Command("unshare", alone, "sh", "-c", `mount --bind "$1" "$2" && exec "$3" agent --data "$2/data"`, "sh",
		dir, own, program)
	cmd.Stdout, cmd.Stderr = log, log
	start(b, cmd)
}

// logRecord is a line of a log.
type logRecord struct {
	Time   time.Time
	Msg    string
	Status string
}

// records are those of a log with a message.
func records(b *testing.B, file, message string) (all []logRecord) {
	b.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		var r logRecord
		if json.Unmarshal([]byte(text), &r) == nil && r.Msg == message {
			all = append(all, r)
		}
	}
	return all
}
