package change

import (
	"strconv"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Facts are what an event says to machines: a trailer for each that is not zero.
type Facts struct {
	Candidate repo.Hash     // the commit that was tested
	Base      repo.Hash     // the tip it stands on
	Tree      repo.Hash     // of the candidate
	Verdict   string        // key of what the build said about it
	Log       string        // of that build
	Took      time.Duration // that build; zero: it was not run for this revision
	Decision  repo.Hash     // of the policy, as it was saved
	Rules     []string      // of the policy that deny it or let it wait
	Until     time.Time     // waits: when the policy is asked again, if nothing else happens

	Old repo.Hash // landed: where the branch was
	New repo.Hash // landed: where it is
	In  repo.Hash // landed with another change: the tip that holds it

	Tip       repo.Hash // refused or in conflict: where the branch stays
	Cause     Cause     // refused: why; or LandingPaused, and it waits
	Files     []string  // in conflict, the first of them
	MoreFiles int       // in conflict, beyond Files
	With      int       // in conflict: the landed change that touched the same files
	Assertion string    // that failed

	Reason string // one line for people
	Short  string // the same for git's line about a ref that was rejected
	Hint   string // what to do
}

// Cause is why a change was refused, or waits.
type Cause string

const (
	BuildFailed     Cause = "build-failed"     // its tree has a red verdict
	BuildNotRun     Cause = "build-not-run"    // the server could not run the build
	NoBuildspec     Cause = "no-buildspec"     // nothing says how to test it
	InvalidFile     Cause = "invalid-file"     // a file that judges it cannot be read
	NoSharedHistory Cause = "no-history"       // it shares no commit with its branch
	NotFastForward  Cause = "not-fast-forward" // the branch has moved, and takes nothing else
	MergeDriver     Cause = "merge-driver"     // a file would have to be merged by a program of its own
	DeniedByPolicy  Cause = "denied"           // a policy denies it
	AssertionFailed Cause = "assertion"        // the gate stopped it before anything moved
	LandingPaused   Cause = "paused"           // somebody lets nothing land on its branch for now
)

// fact is one trailer: how it is written, no value for a zero, and read.
type fact struct {
	key   string
	write func(*Facts) []string
	read  func(*Facts, string)
}

var facts = []fact{
	hashFact("Candidate", func(f *Facts) *repo.Hash { return &f.Candidate }),
	hashFact("Base", func(f *Facts) *repo.Hash { return &f.Base }),
	hashFact("Old", func(f *Facts) *repo.Hash { return &f.Old }),
	hashFact("New", func(f *Facts) *repo.Hash { return &f.New }),
	hashFact("In", func(f *Facts) *repo.Hash { return &f.In }),
	hashFact("Tip", func(f *Facts) *repo.Hash { return &f.Tip }),
	hashFact("Tree", func(f *Facts) *repo.Hash { return &f.Tree }),
	textFact("Verdict", func(f *Facts) *string { return &f.Verdict }),
	hashFact("Decision", func(f *Facts) *repo.Hash { return &f.Decision }),
	listFact("Rule", func(f *Facts) *[]string { return &f.Rules }),
	{
		key: "Until",
		write: func(f *Facts) []string {
			if f.Until.IsZero() {
				return nil
			}
			return []string{f.Until.UTC().Format(time.RFC3339)}
		},
		read: func(f *Facts, value string) { f.Until, _ = time.Parse(time.RFC3339, value) },
	},
	textFact("Log", func(f *Facts) *string { return &f.Log }),
	{
		key: "Took",
		write: func(f *Facts) []string {
			if f.Took <= 0 {
				return nil
			}
			return []string{f.Took.String()}
		},
		read: func(f *Facts, value string) {
			took, _ := time.ParseDuration(value)
			f.Took = max(0, took)
		},
	},
	textFact("Cause", func(f *Facts) *string { return (*string)(&f.Cause) }),
	textFact("Assertion", func(f *Facts) *string { return &f.Assertion }),
	numberFact("With", func(f *Facts) *int { return &f.With }),
	listFact("File", func(f *Facts) *[]string { return &f.Files }),
	numberFact("More-Files", func(f *Facts) *int { return &f.MoreFiles }),
	textFact("Reason", func(f *Facts) *string { return &f.Reason }),
	textFact("Short", func(f *Facts) *string { return &f.Short }),
	textFact("Hint", func(f *Facts) *string { return &f.Hint }),
}

func textFact(key string, in func(*Facts) *string) fact {
	return fact{
		key:   key,
		write: func(f *Facts) []string { return []string{*in(f)} },
		read:  func(f *Facts, value string) { *in(f) = value },
	}
}

func listFact(key string, in func(*Facts) *[]string) fact {
	return fact{
		key:   key,
		write: func(f *Facts) []string { return *in(f) },
		read:  func(f *Facts, value string) { *in(f) = append(*in(f), value) },
	}
}

func hashFact(key string, in func(*Facts) *repo.Hash) fact {
	return fact{
		key: key,
		write: func(f *Facts) []string {
			if *in(f) == repo.Zero {
				return nil
			}
			return []string{in(f).String()}
		},
		read: func(f *Facts, value string) { *in(f), _ = repo.ParseHash(value) },
	}
}

func numberFact(key string, in func(*Facts) *int) fact {
	return fact{
		key: key,
		write: func(f *Facts) []string {
			if *in(f) == 0 {
				return nil
			}
			return []string{strconv.Itoa(*in(f))}
		},
		read: func(f *Facts, value string) { *in(f), _ = strconv.Atoi(value) },
	}
}

// trailers are the facts as a commit's message holds them.
func (f Facts) trailers() (ts []repo.Trailer) {
	for _, fact := range facts {
		for _, value := range fact.write(&f) {
			ts = append(ts, repo.Trailer{Key: fact.key, Value: value})
		}
	}
	return ts
}

// set takes up one trailer. One that is no fact is ignored.
func (f *Facts) set(t repo.Trailer) {
	for _, fact := range facts {
		if fact.key == t.Key {
			fact.read(f, t.Value)
		}
	}
}
