// Package report reads what test programs and coverage tools write about a run: the
// ten formats of CodeBuild (B50), and what `go test -json` prints.
//
//   - Parse reads one file of a format; Detect says which format a file has.
//   - Report is a group of files: its cases, those that failed first.
//
// It judges nothing: exit statuses alone say whether a build is green (B51).
package report

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Status of a case, or of a Report.
type Status string

// What a case came to; Succeeded, Failed and Incomplete are a Report's too.
const (
	Succeeded  Status = "SUCCEEDED"
	Failed     Status = "FAILED"
	Error      Status = "ERROR"
	Skipped    Status = "SKIPPED"
	Unknown    Status = "UNKNOWN"
	Incomplete Status = "INCOMPLETE" // a file is not there, or not of its format
)

// Case is one test as it ran once.
type Case struct {
	Suite   string        `json:"suite,omitempty"` // class, file or package
	Name    string        `json:"name"`
	Status  Status        `json:"status"`
	Message string        `json:"message,omitempty"` // of one that failed: its first lines
	Took    time.Duration `json:"took,omitempty"`
}

func (c Case) String() string {
	if c.Suite == "" || strings.HasPrefix(c.Name, c.Suite+".") {
		return c.Name
	}
	return c.Suite + "." + c.Name
}

// Coverage is how many lines were run, of how many.
type Coverage struct {
	Covered int `json:"covered"`
	Lines   int `json:"lines"`
}

// Report is what a group of files said.
type Report struct {
	Name     string    `json:"name"`
	Status   Status    `json:"status"`
	Cases    []Case    `json:"cases,omitempty"` // failed ones first, at most MaxCases
	Total    int       `json:"total"`
	Failed   int       `json:"failed"`
	Skipped  int       `json:"skipped,omitempty"`
	Coverage *Coverage `json:"coverage,omitempty"`
}

// Bounds, CodeBuild's own where it has some (B52).
const (
	MaxCases   = 500
	MaxName    = 1000     // characters
	MaxMessage = 5000     // characters
	MaxBytes   = 64 << 20 // of one file
	maxAll     = 200_000  // cases that are counted
)

// Add adds what a file said.
func (r *Report) Add(cases []Case, coverage *Coverage) {
	for _, c := range cases {
		r.Total++
		switch c.Status {
		case Failed, Error:
			r.Failed++
		case Skipped:
			r.Skipped++
		}
	}
	r.Cases = append(r.Cases, cases...)
	slices.SortStableFunc(r.Cases, func(a, b Case) int { return rank(a.Status) - rank(b.Status) })
	r.Cases = r.Cases[:min(len(r.Cases), MaxCases)]
	if coverage != nil {
		sum := *coverage
		if r.Coverage != nil {
			sum.Covered, sum.Lines = sum.Covered+r.Coverage.Covered, sum.Lines+r.Coverage.Lines
		}
		r.Coverage = &sum
	}
}

func rank(s Status) int {
	if s == Failed || s == Error {
		return 0
	}
	return 1
}

// GoTest is the format that `go test -json` prints. CodeBuild does not have it.
const GoTest = "GOTESTJSON"

// Detect says which format of test results a file has that begins with head; "" for
// another.
func Detect(name string, head []byte) string {
	text := string(head)
	switch {
	case strings.HasSuffix(name, ".trx") && strings.Contains(text, "<TestRun"):
		return "VISUALSTUDIOTRX"
	case strings.HasSuffix(name, ".xml"):
		for element, format := range map[string]string{
			"<testsuite": "JUNITXML", "<test-results": "NUNITXML", "<test-run": "NUNIT3XML", "<testng-results": "TESTNGXML",
		} {
			if i := strings.Index(text, element); i >= 0 &&
				strings.ContainsAny(text[i+len(element):min(len(text), i+len(element)+2)], " >s\n\t") {
				return format
			}
		}
	case strings.HasSuffix(name, ".json"):
		switch {
		case strings.Contains(text, `"keyword"`) && strings.Contains(text, `"elements"`):
			return "CUCUMBERJSON"
		case strings.HasPrefix(text, `{"Time":"`) && strings.Contains(text, `"Action":"`):
			return GoTest
		}
	}
	return ""
}

// Parse reads a file of a format.
func Parse(format string, in io.Reader) (cases []Case, coverage *Coverage, err error) {
	limited := &io.LimitedReader{R: in, N: MaxBytes + 1}
	switch format {
	case "CUCUMBERJSON":
		cases, err = cucumber(limited)
	case GoTest:
		cases, err = goTest(limited)
	case "SIMPLECOV":
		coverage, err = simplecov(limited)
	default:
		cases, coverage, err = parseXML(format, limited)
	}
	if limited.N == 0 {
		err = fmt.Errorf("it is over %d MiB", MaxBytes>>20)
	}
	if len(cases) > maxAll {
		err = fmt.Errorf("it has more than %d cases", maxAll)
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range cases {
		cases[i].Name = cmp.Or(short(cases[i].Name, MaxName), "?")
		cases[i].Suite = short(cases[i].Suite, MaxName)
		cases[i].Message = short(strings.TrimSpace(cases[i].Message), MaxMessage)
	}
	return cases, coverage, nil
}

// short is the beginning of a text, as valid UTF-8.
func short(s string, characters int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if utf8.RuneCountInString(s) <= characters {
		return s
	}
	return string([]rune(s)[:characters-1]) + "…"
}

// dialect is how a format in XML writes its cases.
type dialect struct {
	root      []string
	element   string
	name      []string // attributes, the first that is there
	suite     []string
	suiteOf   string // element around the case whose attribute name is the suite
	seconds   string // attribute of how long it took
	status    string // attribute
	outcomes  map[string]Status
	children  map[string]Status // elements inside that say what it came to
	message   []string          // elements inside whose text, or attribute message, is the message
	ignoredIf [2]string         // attribute and value of an element that is not a case
}

var dialects = map[string]dialect{
	"JUNITXML": {
		root:     []string{"testsuites", "testsuite"},
		element:  "testcase",
		name:     []string{"name"},
		suite:    []string{"classname", "file"},
		suiteOf:  "testsuite",
		seconds:  "time",
		children: map[string]Status{"failure": Failed, "error": Error, "skipped": Skipped},
		message:  []string{"failure", "error"},
	},
	"NUNITXML": {
		root:    []string{"test-results"},
		element: "test-case",
		name:    []string{"name"},
		seconds: "time",
		status:  "result",
		outcomes: map[string]Status{
			"Success": Succeeded, "Failure": Failed, "Error": Error, "Ignored": Skipped, "NotRunnable": Error,
			"Skipped": Skipped,
		},
		message: []string{"message"},
	},
	"NUNIT3XML": {
		root:     []string{"test-run"},
		element:  "test-case",
		name:     []string{"fullname", "name"},
		seconds:  "duration",
		status:   "result",
		outcomes: map[string]Status{"Passed": Succeeded, "Failed": Failed, "Skipped": Skipped, "Warning": Succeeded},
		message:  []string{"message"},
	},
	"TESTNGXML": {
		root:      []string{"testng-results"},
		element:   "test-method",
		name:      []string{"name"},
		suiteOf:   "class",
		seconds:   "duration-ms",
		status:    "status",
		outcomes:  map[string]Status{"PASS": Succeeded, "FAIL": Failed, "SKIP": Skipped},
		message:   []string{"message"},
		ignoredIf: [2]string{"is-config", "true"},
	},
	"VISUALSTUDIOTRX": {
		root:    []string{"TestRun"},
		element: "UnitTestResult",
		name:    []string{"testName"},
		seconds: "duration",
		status:  "outcome",
		outcomes: map[string]Status{
			"Passed": Succeeded, "Failed": Failed, "Error": Error, "Timeout": Failed, "Aborted": Error, "NotExecuted": Skipped,
			"Disconnected": Error,
		},
		message: []string{"Message"},
	},
	"COBERTURAXML": {root: []string{"coverage"}},
	"JACOCOXML":    {root: []string{"report"}},
	"CLOVERXML":    {root: []string{"coverage"}},
}

// maxDepth bounds the nesting of a file.
const maxDepth = 100

func parseXML(format string, in io.Reader) (cases []Case, coverage *Coverage, err error) {
	d, ok := dialects[format]
	if !ok {
		return nil, nil, fmt.Errorf("unknown format %q", format)
	}
	dec := xml.NewDecoder(bufio.NewReader(in))
	dec.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // names stay readable where it matters
	dec.Strict = false
	var stack []xml.StartElement
	var now *Case // inside of which we are
	saying := 0   // depth of the element whose text is the message
	rooted := false
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) && rooted && len(stack) == 0 {
			return cases, coverage, nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it ends in the middle")
			}
			return nil, nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			t = t.Copy()
			if !rooted && !slices.Contains(d.root, t.Name.Local) {
				return nil, nil, fmt.Errorf("it begins with <%s>, not <%s>", t.Name.Local, d.root[0])
			}
			rooted = true
			if stack = append(stack, t); len(stack) > maxDepth {
				return nil, nil, fmt.Errorf("it nests deeper than %d elements", maxDepth)
			}
			if c := covered(format, stack); c != nil {
				coverage = c
			}
			switch {
			case t.Name.Local == d.element && d.element != "" &&
				(d.ignoredIf[0] == "" || attr(t, d.ignoredIf[0]) != d.ignoredIf[1]):
				cases = append(cases, d.begin(t, stack))
				now = &cases[len(cases)-1]
				if len(cases) > maxAll {
					return cases, nil, nil // which is refused
				}
			case now != nil:
				if s, ok := d.children[t.Name.Local]; ok && (now.Status == Succeeded || now.Status == Skipped) {
					now.Status = s
				}
				if slices.Contains(d.message, t.Name.Local) && saying == 0 {
					saying = len(stack)
					if m := attr(t, "message"); m != "" && now.Message == "" {
						now.Message = m
					}
				}
			}
		case xml.CharData:
			if saying > 0 && now != nil && len(now.Message) < 2*MaxMessage {
				now.Message = strings.TrimLeft(now.Message+"\n"+string(t), "\n\t\r ")
			}
		case xml.EndElement:
			if len(stack) == saying {
				saying = 0
			}
			if len(stack) > 0 {
				stack = stack[:len(stack)-1]
			}
			if t.Name.Local == d.element {
				now = nil
			}
		}
	}
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// begin is the case that an element begins.
func (d dialect) begin(e xml.StartElement, around []xml.StartElement) Case {
	c := Case{Status: Succeeded}
	for _, name := range d.name {
		c.Name = cmp.Or(c.Name, attr(e, name))
	}
	for _, name := range d.suite {
		c.Suite = cmp.Or(c.Suite, attr(e, name))
	}
	for i := len(around) - 1; i >= 0 && c.Suite == "" && d.suiteOf != ""; i-- {
		if around[i].Name.Local == d.suiteOf {
			c.Suite = attr(around[i], "name")
		}
	}
	if d.status != "" {
		c.Status = Unknown
		if s, ok := d.outcomes[attr(e, d.status)]; ok {
			c.Status = s
		}
		if attr(e, "executed") == "False" {
			c.Status = Skipped
		}
	}
	c.Took = took(attr(e, d.seconds), strings.HasSuffix(d.seconds, "-ms"))
	return c
}

// took reads "1.5", "1,200.5" or "00:00:01.5".
func took(text string, ms bool) time.Duration {
	seconds := 0.0
	for part := range strings.SplitSeq(strings.ReplaceAll(text, ",", ""), ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil || !(n >= 0 && n < 1e7) {
			return 0
		}
		seconds = seconds*60 + n
	}
	if ms {
		seconds /= 1000
	}
	return time.Duration(seconds * float64(time.Second))
}

// covered is the coverage that an element of the whole file tells.
func covered(format string, stack []xml.StartElement) *Coverage {
	e, depth := stack[len(stack)-1], len(stack)
	number := func(name string) int { n, _ := strconv.Atoi(attr(e, name)); return max(0, n) }
	switch {
	case format == "COBERTURAXML" && depth == 1:
		if lines := number("lines-valid"); lines > 0 {
			return &Coverage{Covered: number("lines-covered"), Lines: lines}
		}
		rate, err := strconv.ParseFloat(attr(e, "line-rate"), 64)
		if err != nil || !(rate >= 0 && rate <= 1) {
			return nil
		}
		return &Coverage{Covered: int(rate*10_000 + 0.5), Lines: 10_000}
	case format == "JACOCOXML" && depth == 2 && e.Name.Local == "counter" && attr(e, "type") == "LINE":
		return &Coverage{Covered: number("covered"), Lines: number("covered") + number("missed")}
	case format == "CLOVERXML" && depth == 3 && e.Name.Local == "metrics" && stack[1].Name.Local == "project":
		return &Coverage{Covered: number("coveredstatements"), Lines: number("statements")}
	}
	return nil
}

func cucumber(in io.Reader) ([]Case, error) {
	var features []struct {
		Name     string
		Elements []struct {
			Name, Type string
			Steps      []struct {
				Name   string
				Result struct {
					Status   string
					Duration float64
					Message  string `json:"error_message"`
				}
			}
		}
	}
	if err := json.NewDecoder(in).Decode(&features); err != nil {
		return nil, fmt.Errorf("it is not JSON of Cucumber: %w", err)
	}
	var cases []Case
	for _, f := range features {
		for _, e := range f.Elements {
			if e.Type == "background" {
				continue
			}
			c := Case{Suite: f.Name, Name: e.Name, Status: Succeeded}
			for _, s := range e.Steps {
				c.Took += time.Duration(s.Result.Duration) // nanoseconds
				switch s.Result.Status {
				case "failed", "ambiguous":
					c.Status, c.Message = Failed, cmp.Or(c.Message, s.Name+"\n"+s.Result.Message)
				case "undefined", "pending", "skipped":
					if c.Status == Succeeded {
						c.Status = Skipped
					}
				}
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

func goTest(in io.Reader) ([]Case, error) {
	said := map[string]*bytes.Buffer{}
	var cases []Case
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e struct {
			Action, Package, Test, Output string
			Elapsed                       float64
		}
		if len(bytes.TrimSpace(lines.Bytes())) == 0 || lines.Bytes()[0] != '{' {
			continue // what a build prints between
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("it is not what go test -json prints: %w", err)
		}
		if e.Test == "" {
			continue
		}
		key := e.Package + " " + e.Test
		status := map[string]Status{"pass": Succeeded, "fail": Failed, "skip": Skipped}[e.Action]
		if e.Action == "output" {
			if said[key] == nil {
				said[key] = new(bytes.Buffer)
			}
			if b := said[key]; b.Len() < MaxMessage {
				b.WriteString(e.Output)
			}
		}
		if status == "" {
			continue
		}
		c := Case{Suite: e.Package, Name: e.Test, Status: status,
			Took: took(strconv.FormatFloat(e.Elapsed, 'f', -1, 64), false)}
		if b := said[key]; status == Failed && b != nil {
			c.Message = b.String()
		}
		delete(said, key)
		if cases = append(cases, c); len(cases) > maxAll {
			break
		}
	}
	return cases, lines.Err()
}

func simplecov(in io.Reader) (*Coverage, error) {
	var runs map[string]struct {
		Coverage map[string]json.RawMessage
	}
	if err := json.NewDecoder(in).Decode(&runs); err != nil {
		return nil, fmt.Errorf("it is not JSON of SimpleCov: %w", err)
	}
	c := &Coverage{}
	for _, run := range runs {
		for _, raw := range run.Coverage {
			var file struct{ Lines []*int }
			if json.Unmarshal(raw, &file.Lines) != nil && json.Unmarshal(raw, &file) != nil {
				return nil, errors.New("it is not JSON of SimpleCov: a file has no lines")
			}
			for _, n := range file.Lines {
				if n != nil {
					c.Lines++
					if *n > 0 {
						c.Covered++
					}
				}
			}
		}
	}
	return c, nil
}
