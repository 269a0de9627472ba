// Package bench measures the promises about time against the built programs,
// with real git, real ssh and, as the baseline, OpenSSH's own daemon, all on
// this machine and in one run. Like e2e it imports nothing of Headgate.
//
// Each Benchmark prints a table of its own with the goals beside what was
// measured. A goal that is missed is said and fails nothing: the machine may be
// busy. What is compared is measured in turn (A B C B C A …), and a ratio is the
// median of the ratios of neighbours, which a noisy machine blurs least.
//
// Run it with: make bench. How often each thing is measured is set by -runs.
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	runs     = flag.Int("runs", 40, "how often each thing is measured")
	landings = flag.Int("landings", 10_000, "how many landings the repository has had when the next one is measured")
)

// warm is how many runs go first and are not counted.
const warm = 3

// waitTimeout is how long anything may take before the measurement is given up.
const waitTimeout = 60 * time.Second

var programs struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// built is the directory with the programs as they are shipped: without the race
// detector, which would be what is measured otherwise.
func built(b *testing.B) string {
	b.Helper()
	programs.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "headgate-bench-"); programs.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", programs.dir, "../../cmd/headgate", "../../cmd/headgate-hook")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		programs.err = cmd.Run()
		fmt.Print(machine())
	})
	if programs.err != nil {
		b.Fatal("build the programs: ", programs.err)
	}
	return programs.dir
}

// machine says on what the numbers were made.
func machine() string {
	load, _ := os.ReadFile("/proc/loadavg")
	git, _ := exec.Command("git", "version").Output()
	ssh, _ := exec.Command("ssh", "-V").CombinedOutput()
	fs, _ := exec.Command("stat", "-f", "-c", "%T", os.TempDir()).Output()
	first := strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " ")
	return fmt.Sprintf("\nmachine: %d cores, load %s, %s, %s, %s in %s\n", runtime.NumCPU(), first,
		strings.TrimSpace(string(git)), strings.TrimSpace(string(ssh)), strings.TrimSpace(string(fs)), os.TempDir())
}

// BenchmarkPush: one small commit to a branch that is not gated, against sshd
// and git, as they come and made to keep what they acknowledge.
func BenchmarkPush(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	w.sshd(b)
	durability := []string{"core.fsync=objects,derived-metadata,reference", "core.fsyncMethod=fsync"}
	clones := []*clone{w.headgate(b, "ours"), w.bare(b, "plain", "127.0.0.1"),
		w.bare(b, "durable", "127.0.0.1", durability...),
		w.bare(b, "usual", asClientsCome, durability...)}
	const ours, plain, durable, usual = 0, 1, 2, 3
	for _, c := range clones {
		c.git(b, "push", "-q", "origin", "HEAD:refs/heads/work")
	}
	logins := [][]string{w.login(w.SSH, "whoami"), w.login(w.sshdAddress, "true")}
	pushes, logged, beyond := newSamples(len(clones)), newSamples(len(logins)), newSamples(2)
	for i := range *runs + warm {
		for _, k := range turn(i, len(clones)) {
			clones[k].commit(b, i)
			took := clones[k].push(b, "HEAD:refs/heads/work").took
			if i >= warm {
				pushes.add(k, took)
			}
		}
		for _, k := range turn(i, len(logins)) {
			began := time.Now()
			w.run(b, w.dir, "ssh", logins[k]...)
			if i >= warm {
				logged.add(k, time.Since(began))
			}
		}
	}
	for i := range *runs { // what the push itself costs, once its user is in
		beyond.add(0, pushes.of(ours)[i]-logged.of(0)[i])
		beyond.add(1, pushes.of(durable)[i]-logged.of(1)[i])
	}
	t := newTable("push of one small commit to an ungated branch")
	t.row("Headgate", pushes.of(ours))
	t.row("sshd + git, as it comes (syncs nothing)", pushes.of(plain))
	t.row("sshd + git, core.fsync=objects,derived-metadata,reference", pushes.of(durable))
	t.row("the same, with the key exchange that the client prefers", pushes.of(usual))
	t.row("login and one trivial command: Headgate", logged.of(0))
	t.row("login and one trivial command: sshd", logged.of(1))
	t.row("push less login: Headgate", beyond.of(0))
	t.row("push less login: sshd + git, as durable", beyond.of(1))
	t.ratio("Headgate / sshd + git, as it comes", pushes.ratio(ours, plain), 1.3)
	t.ratio("Headgate / sshd + git, as durable", pushes.ratio(ours, durable), 1.3)
	t.ratio("Headgate / sshd + git, as durable, the client's key exchange", pushes.ratio(ours, usual), 0)
	t.ratio("login: Headgate / sshd", logged.ratio(0, 1), 0)
	t.ratio("push less login: Headgate / sshd + git, as durable", beyond.ratio(0, 1), 0)
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(pushes.of(ours).p(50)), "p50-ms")
	b.ReportMetric(pushes.ratio(ours, plain), "x-sshd")
	b.ReportMetric(pushes.ratio(ours, durable), "x-sshd-durable")
}

// BenchmarkFirstCommand: from `git push` to the first command of the build, by
// the command's own clock. Every tree is new.
func BenchmarkFirstCommand(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("echo first $(date +%s%N)"))
	c := w.headgate(b, "ours")
	const fromStart, fromPack, fromAccepted, whole = 0, 1, 2, 3
	s := newSamples(4)
	for i := range *runs + warm {
		c.commit(b, i)
		p := c.push(b, "HEAD:main")
		first := p.stamp(b, "first ")
		if i < warm {
			continue
		}
		s.add(fromStart, first.Sub(p.began))
		s.add(fromPack, first.Sub(p.packSent))
		s.add(fromAccepted, first.Sub(w.logged(b, "change proposed")))
		s.add(whole, p.took)
	}
	t := newTable("push to the first command of its build")
	t.goal("from the start of git push", s.of(fromStart), 50, 150*time.Millisecond)
	t.row("from the client's last byte of the pack", s.of(fromPack))
	t.row("from the change's acceptance", s.of(fromAccepted))
	t.row("whole push: built and landed", s.of(whole))
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(s.of(fromStart).p(50)), "p50-ms")
	b.ReportMetric(ms(s.of(fromPack).p(50)), "pack-p50-ms")
}

// BenchmarkIdenticalTree: an empty commit on a green tip, which lands without a
// build.
func BenchmarkIdenticalTree(b *testing.B) {
	w := newHarness(b)
	w.serve(b, buildspec("true"))
	gated, free := w.headgate(b, "gated"), w.headgate(b, "free")
	gated.push(b, "HEAD:main")
	free.git(b, "push", "-q", "origin", "HEAD:refs/heads/work")
	const whole, fromPack, bare, more, accepted = 0, 1, 2, 3, 4
	s := newSamples(5)
	for i := range *runs + warm {
		var landed, plain *push
		for _, k := range turn(i, 2) {
			switch k {
			case 0:
				gated.git(b, "commit", "-q", "--allow-empty", "-m", "Nothing new")
				landed = gated.push(b, "HEAD:main")
				if !strings.Contains(landed.said(), "identical tree, green since") {
					b.Fatalf("this was no landing of an identical tree:\n%s", landed.said())
				}
			case 1:
				free.git(b, "commit", "-q", "--allow-empty", "-m", "Nothing new")
				plain = free.push(b, "HEAD:refs/heads/work")
			}
		}
		if i < warm {
			continue
		}
		s.add(whole, landed.took)
		s.add(fromPack, landed.at(b, "success:").Sub(landed.packSent))
		s.add(bare, plain.took)
		s.add(more, landed.took-plain.took)
		s.add(accepted, w.logged(b, "change landed").Sub(w.logged(b, "change proposed")))
	}
	t := newTable("landing of an identical tree (no build)")
	t.row("whole push", s.of(whole))
	t.row("the same push to an ungated branch", s.of(bare))
	t.goal("more than that push, pair by pair", s.of(more), 50, 100*time.Millisecond)
	t.goal("from the client's last byte of the pack to \"landed\"", s.of(fromPack), 50, 100*time.Millisecond)
	t.row("of which the gate's: accepted to main moved", s.of(accepted))
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(s.of(whole).p(50)), "p50-ms")
	b.ReportMetric(ms(s.of(more).p(50)), "more-p50-ms")
	b.ReportMetric(ms(s.of(fromPack).p(50)), "pack-p50-ms")
}

// BenchmarkStaging: from "landed" in the push to the new release's answer at
// staging's address, for a service of one process.
func BenchmarkStaging(b *testing.B) {
	w := newHarness(b)
	files := buildspec("true")
	files["buildspec.yml"] += "artifacts:\n  files: [serve.pl, words.txt]\n"
	files["serve.pl"] = serviceProgram
	files["headgate.yaml"] = "environments:\n  staging: {target: services, path: deploy/staging}\n"
	files["deploy/staging/compose.yaml"] = composeFile
	w.serve(b, files)
	c := w.headgate(b, "ours")
	c.push(b, "HEAD:main")
	url := w.stagingURL(b)
	const fromLanded, fromExit = 0, 1
	s := newSamples(2)
	for i := range *runs + warm {
		c.commit(b, i)
		p := c.push(b, "HEAD:main")
		answered := waitFor(b, url, fmt.Sprintf("release %d,", i+2))
		if i < warm {
			continue
		}
		s.add(fromLanded, answered.Sub(p.at(b, "success:")))
		s.add(fromExit, max(0, answered.Sub(p.began.Add(p.took))))
	}
	t := newTable("landed to staging's address answering with the new release")
	t.goal("from \"success: … landed\" in the push", s.of(fromLanded), 95, time.Second)
	t.row("from the end of git push", s.of(fromExit))
	t.print()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(s.of(fromLanded).p(50)), "p50-ms")
	b.ReportMetric(ms(s.of(fromLanded).p(95)), "p95-ms")
}

// buildspec is a repository whose build runs one command.
func buildspec(command string) map[string]string {
	return map[string]string{
		"words.txt":     "hello world\n",
		"buildspec.yml": "version: 0.2\nphases:\n  build:\n    commands:\n      - " + command + "\n",
	}
}

const composeFile = "services:\n  web:\n    command: perl serve.pl\n    ports: [\"127.0.0.1:0:80\"]\n    x-headgate: {health: /}\n"

// serviceProgram answers every request with words.txt and its release.
const serviceProgram = `use strict; use warnings; use IO::Socket::INET;
open my $f, '<', 'words.txt' or die; my $words = <$f>;
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die "listen: $@";
$SIG{TERM} = sub { exit 0 };
while (1) {
    my $c = $s->accept or next;
    while (my $h = <$c>) { last if $h =~ /^\r?\n$/ }
    my $body = $words . "release $ENV{HEADGATE_RELEASE}, pid $$\n";
    print $c "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n" . $body;
    close $c;
}
`
