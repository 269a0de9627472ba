package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestRulesOfECS has what ECS does by its documentation, by the number of the rule. Not
// here: 12 (there is one machine, and nothing to place). That a tag is looked for three
// times, and once for all instances of a version, testImageMissing and testAsDeclared of
// package services hold with a registry and an engine.
func TestRulesOfECS(t *testing.T) {
	for _, c := range []struct {
		rule int
		what string
		play string // a conversation
		want string // its last answer, with an action a line
	}{
		{
			rule: 2,
			what: "no fewer than the minimum are healthy, no more than the maximum run, stopping ones included",
			play: "strategy rolling 100 150\ndeclare 1 web=v1*2\nok web-1 web-2\nwait 20s\n\ndeclare 2 web=v2*2\nok web-3\n",
			want: "start web-3 v2\nretire web-2\nroute web v1 to web-1 web-3\ndrain web-2 within 5s",
		},
		{
			rule: 3,
			what: "50 % of 4: two may be stopped first",
			play: "strategy rolling 50 100\ndeclare 1 web=v1*4\nok web-1 web-2 web-3 web-4\nwait 20s\n\ndeclare 2 web=v2*4\n",
			want: "retire web-3\nretire web-4\nroute web v1 to web-1 web-2\ndrain web-3 within 5s\ndrain web-4 within 5s",
		},
		{
			rule: 3,
			what: "75 % of 2: none may be stopped first",
			play: "strategy rolling 75 150\ndeclare 1 web=v1*2\nok web-1 web-2\nwait 20s\n\ndeclare 2 web=v2*2\n",
			want: "start web-3 v2",
		},
		{
			rule: 3,
			what: "125 % of 3: none may be started first",
			play: "strategy rolling 50 125\ndeclare 1 web=v1*3\nok web-1 web-2 web-3\nwait 20s\n\ndeclare 2 web=v2*3\n",
			want: "retire web-3\nroute web v1 to web-1 web-2\ndrain web-3 within 5s",
		},
		{
			rule: 4,
			what: "what has no check is healthy after it was alive for so long",
			play: "lasts 40s\nstrategy rolling 100 200\ndeclare 1 web=v1\nok web-1\nwait 40s\nok web-1\n\n" +
				"declare 2 web=v2\nok web-2\nwait 39s\nok web-1 web-2\n\nwait 1s\n",
			want: "retire web-1\nroute web v2 to web-2\ndrain web-1 within 5s",
		},
		{
			rule: 5,
			what: "out of the traffic, drained, and then stopped",
			play: "declare 1 web=v1\nok web-1\nwait 20s\n\ndeclare 2 web=v2\nok web-2\ndrained web-1\n",
			want: "start web-2 v2\nretire web-1\nroute web v2 to web-2\ndrain web-1 within 5s\nstop web-1",
		},
		{
			rule: 6,
			what: "what is unhealthy is replaced in its own version",
			play: "strategy rolling 100 200\ndeclare 1 web=v1*2\nok web-1 web-2\nwait 20s\nok web-1 web-2\n\ndeclare 2 web=v2*2\nexit web-1 killed\n",
			want: "start web-3 v2\nstart web-4 v2\nroute web v1 to web-2\nstart web-1 v1",
		},
		{
			rule: 8,
			what: "at the threshold no more are started, and it goes back",
			play: "declare 1 web=v1\nok web-1\nwait 20s\n\ndeclare 2 web=v2\nexit web-2 exited 1\nwait 1s\nexit web-2 exited 1\nwait 2s\nexit web-2 exited 1\nwait 1h\nok web-1\n",
			want: "start web-2 v2\nstart web-2 v2\nstart web-2 v2\nretire web-2",
		},
		{
			rule: 8,
			what: "checks that fail count as starts that fail do",
			play: "declare 1 web=v1\nok web-1\nwait 20s\n\ndeclare 2 web=v2\nwait 16s\nfail web-2 no\nexit web-2 stopped\nwait 1s\nwait 16s\nfail web-2 no\n" +
				"exit web-2 stopped\nwait 2s\nwait 16s\nfail web-2 no\n",
			want: "start web-2 v2\nstop web-2\nstart web-2 v2\nstop web-2\nstart web-2 v2\nretire web-2\nstop web-2",
		},
		{
			rule: 9,
			what: "an alarm that fires when it begins is ignored for that deployment",
			play: "alarm errors above 1\ndeclare 1 web=v1\nmeasured errors none\nok web-1\n\ndeclare 2 web=v2\nmeasured errors 5\nok web-2\n",
			want: "enter RECONCILE_SERVICE\nquery errors\nenter PRE_SCALE_UP\nenter SCALE_UP\nstart web-2 v2\nenter POST_SCALE_UP\n" +
				"enter TEST_TRAFFIC_SHIFT\nenter POST_TEST_TRAFFIC_SHIFT\nenter PRE_PRODUCTION_TRAFFIC_SHIFT\nenter PRODUCTION_TRAFFIC_SHIFT\n" +
				"shift to 100%\nenter POST_PRODUCTION_TRAFFIC_SHIFT\nenter BAKE_TIME\nenter CLEAN_UP\nretire web-1\nroute web v2 to web-2\n" +
				"drain web-1 within 5s\nenter DEPLOYED",
		},
		{
			rule: 10,
			what: "what ends after it has run well is started again at once",
			play: "declare 1 web=v1\nok web-1\nwait 20s\nok web-1\n\nexit web-1 killed\n",
			want: "route web v1 to\nstart web-1 v1",
		},
		{
			rule: 11,
			what: "an image that could not be resolved three times fails the deployment, however many failures the breaker takes",
			play: "breaker 10\ndeclare 1 web=v1\nok web-1\nwait 20s\nok web-1\n\ndeclare 2 web=v2\nhopeless web-2 no such image\nwait 1h\nok web-1\n",
			want: "start web-2 v2\nretire web-2",
		},
		{
			rule: 11,
			what: "without a breaker it is tried for ever",
			play: "breaker off\ndeclare 1 web=v1\nok web-1\nwait 20s\nok web-1\n\ndeclare 2 web=v2\nhopeless web-2 no such image\nwait 1h\nok web-1\n",
			want: "start web-2 v2\nstart web-2 v2",
		},
		{
			rule: 13,
			what: "a canary has exactly two steps",
			play: "strategy canary 25 1m\ndeclare 1 web=v1\nok web-1\n\ndeclare 2 web=v2\nok web-2\n\nwait 1m\nok web-1 web-2\n",
			want: "shift to 100%\nenter POST_PRODUCTION_TRAFFIC_SHIFT\nenter BAKE_TIME\nenter CLEAN_UP\nretire web-1\nroute web v2 to web-2\n" +
				"drain web-1 within 5s\nenter DEPLOYED",
		},
	} {
		t.Run(fmt.Sprintf("%d %s", c.rule, c.what), func(t *testing.T) {
			blocks := strings.Split(strings.TrimSpace(play(t, c.play)), "\n\n")
			_, got, _ := strings.Cut(blocks[len(blocks)-1], "----\n")
			got, _, _ = strings.Cut(got, "= ")
			if strings.TrimSpace(got) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestNumbersOfECS are rules 1, 3 and 7, which are arithmetic.
func TestNumbersOfECS(t *testing.T) {
	for _, c := range []struct{ replicas, low, high, minimum, maximum int }{
		{4, 50, 200, 2, 8},
		{2, 75, 200, 2, 4},
		{3, 100, 125, 3, 3},
		{3, 34, 167, 2, 5},
		{0, 100, 200, 0, 0},
		{1, 0, 100, 0, 1},
	} {
		if low, high := Bounds(c.replicas, c.low, c.high); low != c.minimum || high != c.maximum {
			t.Errorf("%d%% to %d%% of %d is %d to %d, want %d to %d", c.low, c.high, c.replicas, low, high, c.minimum, c.maximum)
		}
	}
	for _, c := range []struct {
		replicas, low, high int
		stalls              bool
	}{
		{3, 100, 125, true},
		{4, 100, 125, false},
		{2, 75, 100, true},
		{2, 50, 100, false},
		{1, 100, 100, true},
		{0, 100, 100, false},
	} {
		low, high := Bounds(c.replicas, c.low, c.high)
		if got := Stalls(c.replicas, low, high); got != c.stalls {
			t.Errorf("%d%% to %d%% of %d stalls: %t, want %t", c.low, c.high, c.replicas, got, c.stalls)
		}
	}
	for _, c := range []struct {
		breaker        Breaker
		replicas, want int
	}{
		{Breaker{}, 1, 3},
		{Breaker{}, 6, 3},
		{Breaker{}, 7, 4},
		{Breaker{}, 25, 13},
		{Breaker{}, 400, 200},
		{Breaker{}, 800, 200},
		{Breaker{Value: 20}, 100, 20},
		{Breaker{Kind: UnboundedPercent, Value: 50}, 1, 1},
		{Breaker{Kind: UnboundedPercent, Value: 50}, 800, 400},
		{Breaker{Kind: UnboundedPercent, Value: 10}, 3, 1},
		{Breaker{Kind: Count, Value: 7}, 800, 7},
	} {
		if got := c.breaker.Threshold(c.replicas); got != c.want {
			t.Errorf("%+v of %d is %d, want %d", c.breaker, c.replicas, got, c.want)
		}
	}
}

// TestBreakerCounts is the rest of rule 7: the count begins anew with an instance that
// proves healthy, unless it is cumulative, and the newest number of replicas counts.
func TestBreakerCounts(t *testing.T) {
	run := func(breaker string, more ...string) target.State {
		text := breaker + "\ndeclare 1 web=v1*2\nok web-1 web-2\nwait 20s\nok web-1 web-2\n" +
			"declare 2 web=v2*2\nexit web-3 exited 1\nwait 1s\nexit web-3 exited 1\nwait 2s\n" +
			"ok web-4\nwait 10s\nok web-4 web-1 web-2\n" + strings.Join(more, "\n")
		answer := play(t, text)
		for _, s := range []target.State{target.Failed, target.Converging} {
			if strings.Contains(answer[strings.LastIndex(answer, "= "):], string(s)) {
				return s
			}
		}
		t.Fatal(answer)
		return ""
	}
	once := "exit web-3 exited 1"
	if got := run("breaker", once); got != target.Converging {
		t.Errorf("consecutive: %s", got)
	}
	if got := run("breaker cumulative", once); got != target.Failed {
		t.Errorf("cumulative: %s", got)
	}
	if got := run("breaker off", once, "wait 4s", once, "wait 8s", once, "wait 16s", once,
		"ok web-1 web-2 web-4"); got != target.Converging {
		t.Errorf("off: %s", got)
	}
}

// TestStopWorksWithoutRollback is rule 14: a person can always go back, by declaring
// what was before, whatever stage it is in, and in one step.
func TestStopWorksWithoutRollback(t *testing.T) {
	out := play(
		t, "breaker keeps\nstrategy canary 10 5m\nbake 1h\ndeclare 1 web=v1\nok web-1\ndeclare 2 web=v2\nok web-2\nwait 5m\nok web-1 web-2\n\ndeclare 3 web=v1\n")
	if last := out[strings.LastIndex(out, "declare 3"):]; !strings.Contains(last,
		"retire web-2\nroute web v1 to web-1\ndrain web-2 within 5s\n= healthy") {
		t.Errorf("%s", last)
	}
}

// TestAfterTheDeadline: a stage that takes longer than a day is given up (rule 13).
func TestAfterTheDeadline(t *testing.T) {
	out := play(t, "strategy canary 10 5m\ndeclare 1 web=v1\nok web-1\ndeclare 2 web=v2\nwait 24h\nok web-1\n")
	if !strings.Contains(out, fmt.Sprintf("give up because stage SCALE_UP took longer than %s", 24*time.Hour)) {
		t.Errorf("%s", out)
	}
}
