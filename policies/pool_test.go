package policies

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the process that a Pool of these tests starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "work" {
		Work()
		return
	}
	// As the program does: what whoever started it left open is nobody else's.
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, d := range open {
		if fd, err := strconv.Atoi(d.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	goleak.VerifyTestMain(m)
}

func newPool(t testing.TB) *Pool {
	t.Helper()
	p := &Pool{Program: []string{"/proc/self/exe", "work"}}
	t.Cleanup(p.Close)
	return p
}

// checkIn is Check in a process, which must not fail.
func checkIn(t *testing.T, files map[string][]byte) []Problem {
	t.Helper()
	ps, err := newPool(t).Check(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func given(files map[string][]byte) (key string, load func() (map[string][]byte, error)) {
	h := sha256.New()
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(h, "%s %d %s", name, len(files[name]), files[name])
	}
	return hex.EncodeToString(h.Sum(nil)), func() (map[string][]byte, error) { return files, nil }
}

func pooled(t testing.TB, p *Pool, files map[string][]byte) *Engine {
	t.Helper()
	e, err := p.Engine(given(files))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// one is the file of a policy that denies a push when a condition holds, with what
// the condition refers to.
func one(when, rest string) map[string][]byte {
	return map[string][]byte{
		"policies/a.rego": []byte("package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": \"m\"} if " + when +
			"\n\n" + rest),
	}
}

// chain is rules x0 to x<n>, each made from the one before by a step with PREV in
// its place.
func chain(name, first, step string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s0 := %s\n", name, first)
	for i := range n {
		fmt.Fprintf(&b, "%s%d := %s\n", name, i+1, strings.ReplaceAll(step, "PREV", fmt.Sprintf("%s%d", name, i)))
	}
	return b.String()
}

// A process gives the answers that this one would, and knows them by the same name.
func TestPoolAnswersAlike(t *testing.T) {
	p := newPool(t)
	for _, files := range []map[string][]byte{nil, one(`input.ref == "refs/heads/x"`, ""),
		one("input.force", "need := set()\n")} {
		here, there := engine(t, files), pooled(t, p, files)
		if here.Digest() != there.Digest() {
			t.Errorf("%s and %s", here.Digest(), there.Digest())
		}
		for _, ref := range []string{"refs/heads/x", "refs/heads/y"} {
			in := push()
			in.Ref = ref
			_, want := here.Push(t.Context(), in)
			_, got := there.Push(t.Context(), in)
			want.Took, got.Took = 0, 0
			if string(want.JSON()) != string(got.JSON()) {
				t.Errorf("%s\n%s", want.JSON(), got.JSON())
			}
		}
	}
}

// What belongs to other programs costs no process, nor do the policies of many
// repositories that have none.
func TestOthersFilesAreTheDefault(t *testing.T) {
	p := newPool(t)
	none := pooled(t, p, nil)
	if e := pooled(t, p, map[string][]byte{"policies/k8s.rego": []byte("package main\n\ndeny[msg] { x }\n")}); e != none {
		t.Error("it has an engine of its own")
	}
	if len(p.places) > 0 {
		t.Errorf("%d processes", len(p.places))
	}
}

// hostile are policies that would take a process with them, each with what becomes
// of it: refused when it is checked, or later denied by a reason.
var hostile = []struct {
	name    string
	files   map[string][]byte
	refused string // by Check; "" passes
	denied  string // by Push
}{
	{"5,000 nested every", one("x",
		"x if {\n"+strings.Repeat("every a in [1] {\n", 5000)+"true\n"+strings.Repeat("}\n", 5000)+"}\n"),
		"the policies ", "the policies "},
	{"a chain of 8,000 rules", one("x8000 == 1", chain("x", "input.ref", `[PREV, 1]`, 8000)), "the policies ",
		"the policies "},
	{"values that double", one("x40 == y40", chain("x", "[1]", "[PREV, PREV]", 40)+chain("y", "[1]", "[PREV, PREV]", 40)),
		"the policies ", "the policies "},
	{"functions that double", one("x40(1) == 1", "x0(_) := [1]\n"+functions(40)), "the policies ", "the policies "},
	{"a loop", one("{\n\tsome a in l\n\tsome b in l\n\tsome c in l\n\ta + b + c < 0\n}",
		"l := [i | some i, _ in split(\""+strings.Repeat("a", 4000)+"\", \"\")]\n"), "", "policy timed out"},
	{"trim, which does not listen",
		one(
			"{\n\tsome i, _ in l\n\ttrim(concat(\"\", array.slice(l, 0, count(l) - i % 2)), concat(\"\", [concat(\"\", l2), \"a\"])) == \"b\"\n}",
			"l := split(\""+strings.Repeat("a", 100_000)+"\", \"\")\nl2 := split(\""+strings.Repeat("b", 100_000)+
				"\", \"\")\n"), "", "policy timed out"},
	{"a text that doubles", one(`x40 == ""`, chain("x", `"aaaaaaaaaaaaaaaa"`, `concat("", [PREV, PREV])`, 40)), "",
		"need more than 256 MiB of memory"},
	{"an array that doubles", one("count(x40) == 1", chain("x", "[1, 2]", "array.concat(PREV, PREV)", 40)), "", "p"},
	{"wide numbers", one("sprintf(\""+strings.Repeat("%0999999[1]d", 2000)+"\", [1]) == \"\"", ""), "",
		"need more than 256 MiB of memory"},
	{"shared parts, written", one(`json.marshal(x40) == ""`, chain("x", "[1]", "array.concat([PREV], [PREV])", 40)), "",
		"p"},
	{"shared parts, answered", map[string][]byte{"policies/a.rego": []byte(
		"package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": x40}\n\n" +
			chain("x", "[1]", "array.concat([PREV], [PREV])", 40))}, "", "p"},
	{"a large number", one("x20 > 0", chain("x", "1e300", "PREV * PREV", 20)), "", "p"},
	{"an answer without end", one("true", "") /* below */, "", "the answer is "},
	{"prints", one("{\n\tsome c in split(\""+strings.Repeat("a", 2000)+"\", \"\")\n\tprint(c)\n\tc == \"b\"\n}", ""), "",
		"prints more than"},
	{"the network", one(`http.send({"url": "http://127.0.0.1", "method": "get"})`, ""), "undefined function http.send",
		"the policy is broken"},
	{"the environment", one("opa.runtime()", ""), "undefined function opa.runtime", "the policy is broken"},
	{"names", one(`net.lookup_ip_addr("example.com")`, ""), "undefined function net.lookup_ip_addr",
		"the policy is broken"},
}

func init() {
	for i := range hostile {
		if hostile[i].name == "an answer without end" {
			hostile[i].files = map[string][]byte{"policies/a.rego": []byte(
				"package headgate.push\n\ndeny contains {\"rule\": \"x\", \"msg\": x18}\n\n" +
					chain("x", `"aaaaaaaaaaaaaaaa"`, `concat("", [PREV, PREV])`, 18))}
		}
	}
}

func functions(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "x%d(v) := [x%d(v), x%d(v)]\n", i+1, i, i)
	}
	return b.String()
}

// TestPoliciesThatNeverEnd: each ends by its own name, and while it is dealt with,
// others are answered: at least one answer comes from beginning to end of it.
func TestPoliciesThatNeverEnd(t *testing.T) {
	// What is over these is far over the real ones.
	check, load := checkLimit, loadLimit
	t.Cleanup(func() { checkLimit, loadLimit = check, load })
	checkLimit.cpu, loadLimit.cpu = time.Second, time.Second
	p := newPool(t)
	others := []*Engine{pooled(t, p, nil), pooled(t, p, one("input.force", ""))}
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasPrefix(c.name, "shared") || c.name == "a large number" {
				t.Parallel()
			}
			stop, answered := make(chan struct{}), make(chan int)
			go func() {
				n := 0
				for {
					select {
					case <-stop:
						answered <- n
						return
					default:
					}
					for _, e := range others {
						if a, _ := e.Push(context.Background(), push()); a.Decision != Auto {
							t.Errorf("another is denied: %s", a.Why())
						}
					}
					n++
					time.Sleep(50 * time.Millisecond) // so that looking leaves the machine to what is looked at
				}
			}()
			start := time.Now()
			ps, err := p.Check(t.Context(), c.files)
			if err != nil {
				t.Fatal(err)
			}
			if said := Problems(ps).Error(); (c.refused == "") != (len(ps) == 0) || !strings.Contains(said, c.refused) {
				t.Errorf("check says %.300q", said)
			}
			checked := time.Since(start)
			e, err := p.Engine(given(c.files))
			if e == nil {
				t.Fatal(err)
			}
			a, _ := e.Push(t.Context(), push())
			late := !byKernel && strings.Contains(a.Why(), "policy timed out") // before it had as much memory
			if a.Decision != Deny || !a.Unanswered() || !strings.Contains(a.Why(), c.denied) && !late {
				t.Errorf("%+v", a)
			}
			took := time.Since(start)
			close(stop)
			n := <-answered
			if n == 0 {
				t.Error("nobody else had an answer meanwhile")
			}
			t.Logf("checked in %s, denied after %s: %s; others had %d answers", checked.Round(time.Millisecond),
				took.Round(time.Millisecond), a.Why(), n)
		})
	}
}

// A process that is killed in the middle is replaced, and the query asked again.
// One that is killed every time is a denial that says so.
func TestProcessEndsInTheMiddle(t *testing.T) {
	p := newPool(t)
	e := pooled(t, p, one("input.force", ""))
	s := e.evaluator.(*set)
	kill := func() int {
		pid := s.process.cmd.Process.Pid
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := kill()
	if a, _ := e.Push(t.Context(), push()); a.Decision != Auto {
		t.Errorf("%+v", a)
	}
	if s.process.cmd.Process.Pid == before {
		t.Error("the process that was killed has answered")
	}

	p.Program = []string{"/bin/false"}
	kill()
	if a, _ := e.Push(t.Context(), push()); a.Decision != Deny || !a.Unanswered() ||
		!strings.Contains(a.Why(), "the process that evaluates policies ended") {
		t.Errorf("%+v", a)
	}
	p.Program = []string{"/proc/self/exe", "work"}
	if a, _ := e.Push(t.Context(), push()); a.Decision != Auto {
		t.Errorf("%+v", a)
	}
}

// Nothing is left of a pool that was closed, whatever its processes did; nor of one
// whose server was killed: the end of their input ends them, in the middle too.
func TestProcessesEndWithThePool(t *testing.T) {
	p := newPool(t)
	e := pooled(t, p, one("input.force", ""))
	pid := e.evaluator.(*set).process.cmd.Process.Pid
	p.Close()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
	if a, _ := e.Push(t.Context(), push()); a.Decision != Deny {
		t.Errorf("answered after the end: %+v", a)
	}
	if _, err := p.Engine(given(one("input.delete", ""))); err == nil {
		t.Error("compiled after the end")
	}

	p = newPool(t)
	p.init()
	c, err := p.start()
	if err != nil {
		t.Fatal(err)
	}
	loop := hostile[4].files
	if _, err := c.exchange(request{Op: opLoad, Files: loop}, loadLimit); err != nil {
		t.Fatal(err)
	}
	// What a killed server leaves is a pipe that nobody writes to.
	if err := writeFrame(c.in, request{Op: opEvaluate, Query: "push", Input: []byte("{}")}, maxRequest); err != nil {
		t.Fatal(err)
	}
	c.in.Close()
	<-c.exited
	c.pipe.Close()
}

// What a process has: no environment, no descriptors but its pipes, no network, no
// other programs, no privileges to gain, little memory.
func TestProcessIsConfined(t *testing.T) {
	t.Setenv("HEADGATE_SECRET", "x")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	e := pooled(t, newPool(t), one("input.force", ""))
	proc := filepath.Join("/proc", strconv.Itoa(e.evaluator.(*set).process.cmd.Process.Pid))
	if env, err := os.ReadFile(filepath.Join(proc, "environ")); err != nil || len(env) > 0 {
		t.Errorf("environment %q, %v", env, err)
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if n, _ := strconv.Atoi(fd.Name()); n > 2 && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/sys/fs/cgroup/") { // the runtime's
			t.Errorf("descriptor %s is %s", fd.Name(), to)
		}
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	if err != nil || byKernel && !strings.Contains(string(limits),
		fmt.Sprintf("Max data size             %d ", maxMemory)) {
		t.Errorf("%s, %v", limits, err)
	}
}

// Many sets share few processes: each has its answer, and no more than the bound
// are there at a time.
func TestProcessesAreBounded(t *testing.T) {
	p := newPool(t)
	var engines []*Engine
	for i := range maxProcesses + 3 {
		engines = append(engines, pooled(t, p, one(fmt.Sprintf("input.ref == \"%d\"", i), "")))
	}
	var wg sync.WaitGroup
	for round := range 3 {
		for i, e := range engines {
			wg.Go(func() {
				in := push()
				in.Ref = strconv.Itoa(i + round%2) // denied in some rounds
				if a, _ := e.Push(context.Background(), in); (a.Decision == Deny) != (round%2 == 0) || a.Unanswered() {
					t.Errorf("%d: %+v", i, a)
				}
			})
		}
	}
	wg.Wait()
	if n := len(p.places); n > maxProcesses {
		t.Errorf("%d processes", n)
	}
}

// TestCompiledOnce: equal keys share an engine; a set that is slow to read holds up
// nobody else; what could not be read is tried again.
func TestCompiledOnce(t *testing.T) {
	p := newPool(t)
	none := func() (map[string][]byte, error) { return nil, nil }
	slow, let := make(chan struct{}), make(chan struct{})
	got := make(chan *Engine)
	for range 2 {
		go func() {
			e, err := p.Engine("slow", func() (map[string][]byte, error) {
				close(slow) // twice would panic
				<-let
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
			got <- e
		}()
	}
	<-slow
	if e, err := p.Engine("", none); err != nil || e == nil {
		t.Fatal(e, err)
	}
	close(let)
	if x, y := <-got, <-got; x != y || x == nil {
		t.Errorf("%p and %p", x, y)
	}

	unread := errors.New("cannot be read")
	if e, err := p.Engine("bad", func() (map[string][]byte, error) { return nil, unread }); e != nil ||
		!errors.Is(err, unread) {
		t.Error(e, err)
	}
	broken := map[string][]byte{"policies/a.rego": []byte("package headgate.push\n\ndeny contains if")}
	for range 2 {
		e, err := p.Engine(given(broken))
		if e == nil || err == nil {
			t.Fatal("a set that does not compile must deny and say so:", e, err)
		}
		if a, _ := e.Push(t.Context(), push()); a.Decision != Deny || !strings.Contains(a.Why(), "the policy is broken") {
			t.Errorf("%+v", a)
		}
	}
	if e, err := p.Engine("bad", none); e == nil || err != nil {
		t.Error(e, err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = p.Engine("panics", func() (map[string][]byte, error) { panic("of the loader") })
	}()
	if e, err := p.Engine("panics", none); e != nil || err == nil {
		t.Error("what broke off must not look compiled:", e, err)
	}
	if e, err := p.Engine("panics", none); e == nil || err != nil {
		t.Error(e, err)
	}
	for i := range 2 * maxSets {
		if _, err := p.Engine(strconv.Itoa(i), none); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.sets) > maxSets {
		t.Errorf("%d are kept", len(p.sets))
	}
}

// BenchmarkDecision is one query to a process, its start apart, with the default
// policies and with a repository's own beside them.
func BenchmarkDecision(b *testing.B) {
	for name, files := range map[string]map[string][]byte{"default": nil, "own": one("input.force", "")} {
		b.Run(name, func(b *testing.B) {
			e := pooled(b, newPool(b), files)
			in := promote()
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				start := time.Now()
				if a, _ := e.Promote(context.Background(), in); a.Decision != Manual {
					b.Fatalf("%+v", a)
				}
				took = append(took, time.Since(start))
			}
			report(b, took)
			if s, ok := e.evaluator.(*set); ok {
				b.ReportMetric(resident(b, s.process.cmd.Process.Pid), "MiB")
			}
		})
	}
	b.Run("cold", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			p := newPool(b)
			start := time.Now()
			e := pooled(b, p, one("input.force", ""))
			e.Promote(context.Background(), promote())
			took = append(took, time.Since(start))
			p.Close()
		}
		report(b, took)
	})
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	ms := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1e3 }
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
}

// resident is the memory of a process that is its own, in MiB.
func resident(b *testing.B, pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}
