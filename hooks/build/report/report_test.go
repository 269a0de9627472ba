package report

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ format, in, want string }{
		{"JUNITXML", `<?xml version="1.0"?><testsuites><testsuite name="s"><properties/><testcase classname="a.B" name="ok" time="1.5"/>
<testcase name="bad"><failure message="want 1">at x:3
&lt;got 2&gt;</failure><system-out>noise</system-out></testcase><testcase name="err"><error>boom</error></testcase><testcase name="skip"><skipped/></testcase></testsuite></testsuites>`,
			"a.B.ok SUCCEEDED 1.5s |s.bad FAILED 0s want 1 at x:3 <got 2>|s.err ERROR 0s boom|s.skip SKIPPED 0s "},
		{"JUNITXML", `<testsuite><testcase name="nested"><failure/></testcase></testsuite>`, "nested FAILED 0s "},
		{"NUNITXML", `<test-results><test-suite><results><test-case name="N.A" executed="True" result="Success" time="0.1"/><test-case name="N.B" result="Failure"><failure><message><![CDATA[no]]></message><stack-trace>x</stack-trace></failure></test-case><test-case name="N.C" executed="False" result="Ignored"/></results></test-suite></test-results>`,
			"N.A SUCCEEDED 100ms |N.B FAILED 0s no|N.C SKIPPED 0s "},
		{"NUNIT3XML", `<test-run><test-suite><test-case fullname="N.A" result="Passed" duration="2"/><test-case fullname="N.B" result="Failed"><failure><message>no</message></failure></test-case><test-case fullname="N.C" result="Inconclusive"/></test-suite></test-run>`,
			"N.A SUCCEEDED 2s |N.B FAILED 0s no|N.C UNKNOWN 0s "},
		{"TESTNGXML", `<testng-results><suite><test><class name="a.B"><test-method name="setUp" status="PASS" is-config="true"/><test-method name="x" status="PASS" duration-ms="30"/><test-method name="y" status="FAIL"><exception class="E"><message>no</message><full-stacktrace>s</full-stacktrace></exception></test-method></class></test></suite></testng-results>`,
			"a.B.x SUCCEEDED 30ms |a.B.y FAILED 0s no"},
		{"VISUALSTUDIOTRX", `<TestRun xmlns="http://microsoft.com/schemas/VisualStudio/TeamTest/2010"><Results><UnitTestResult testName="A.b" outcome="Passed" duration="00:01:01.5"/><UnitTestResult testName="A.c" outcome="Failed"><Output><ErrorInfo><Message>no</Message></ErrorInfo></Output></UnitTestResult></Results></TestRun>`,
			"A.b SUCCEEDED 1m1.5s |A.c FAILED 0s no"},
		{"CUCUMBERJSON", `[{"keyword":"Feature","name":"F","elements":[{"type":"background","name":""},{"type":"scenario","name":"S","steps":[{"name":"one","result":{"status":"passed","duration":1000000}},{"name":"two","result":{"status":"failed","error_message":"no"}}]},{"name":"T","steps":[{"result":{"status":"undefined"}}]}]}]`,
			"F.S FAILED 1ms two no|F.T SKIPPED 0s "},
		{GoTest, "{\"Time\":\"x\",\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"TestA\"}\n{\"Action\":\"output\",\"Package\":\"p\",\"Test\":\"TestA\",\"Output\":\"a_test.go:3: no\\n\"}\n{\"Action\":\"fail\",\"Package\":\"p\",\"Test\":\"TestA\",\"Elapsed\":0.5}\nnoise\n{\"Action\":\"fail\",\"Package\":\"p\"}\n",
			"p.TestA FAILED 500ms a_test.go:3: no"},
	} {
		cases, _, err := Parse(c.format, strings.NewReader(c.in))
		var got []string
		for _, one := range cases {
			got = append(got, one.String()+" "+string(one.Status)+" "+one.Took.String()+" "+
				strings.Join(strings.Fields(one.Message), " "))
		}
		if s := strings.Join(got, "|"); err != nil || s != c.want {
			t.Errorf("%s: %v\n%s\n%s", c.format, err, s, c.want)
		}
	}
}

func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		format, in string
		want       Coverage
	}{
		{"COBERTURAXML", `<coverage line-rate="0.5" lines-covered="3" lines-valid="6"><packages/></coverage>`,
			Coverage{3, 6}},
		{"COBERTURAXML", `<coverage line-rate="0.25"></coverage>`, Coverage{2500, 10000}},
		{"JACOCOXML", `<report name="x"><package><counter type="LINE" missed="9" covered="9"/></package><counter type="LINE" missed="1" covered="3"/></report>`, Coverage{3, 4}},
		{"CLOVERXML", `<coverage><project><metrics statements="8" coveredstatements="2"/><file><metrics statements="1" coveredstatements="1"/></file></project></coverage>`, Coverage{2, 8}},
		{"SIMPLECOV", `{"RSpec":{"coverage":{"/a.rb":{"lines":[1,null,0]},"/b.rb":[2,0]},"timestamp":1}}`, Coverage{2, 4}},
	} {
		if _, got, err := Parse(c.format, strings.NewReader(c.in)); err != nil || got == nil || *got != c.want {
			t.Errorf("%s: %+v %v", c.format, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "ends in the middle",
		"<html></html>":                    "begins with <html>, not <testsuites>",
		"<testsuite><testcase>":            "",
		"not XML":                          "ends in the middle",
		strings.Repeat("<testsuite>", 200): "nests deeper than 100",
	} {
		if _, _, err := Parse("JUNITXML", strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", in, err)
		}
	}
	if _, _, err := Parse("CUCUMBERJSON", strings.NewReader("{")); err == nil {
		t.Error("half an object is taken")
	}
}

// B52: of more cases than are kept, those that failed come first.
func TestFailedOnesAreKept(t *testing.T) {
	var r Report
	for i := range 600 {
		c := Case{Name: "x", Status: Succeeded, Took: time.Second}
		if i > 590 {
			c.Status = Failed
		}
		r.Add([]Case{c}, nil)
	}
	if r.Total != 600 || r.Failed != 9 || len(r.Cases) != MaxCases || r.Cases[8].Status != Failed ||
		r.Cases[9].Status != Succeeded {
		t.Errorf("%d of %d failed, %d kept", r.Failed, r.Total, len(r.Cases))
	}
}

func TestDetect(t *testing.T) {
	for name, head := range map[string]string{
		"JUNITXML a.xml": "<?xml?>\n<testsuites>", "JUNITXML b.xml": "<testsuite name='x'>",
		"NUNITXML c.xml": "<test-results ", "NUNIT3XML d.xml": "<test-run id=2",
		"TESTNGXML e.xml": "<testng-results skipped", "VISUALSTUDIOTRX f.trx": "<TestRun id",
		"CUCUMBERJSON g.json": `[{"keyword":"F","elements":[`,
		"GOTESTJSON h.json":   `{"Time":"2026","Action":"start"`, " pom.xml": "<project>", " x.json": "{}",
	} {
		want, file, _ := strings.Cut(name, " ")
		if got := Detect(file, []byte(head)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("JUNITXML", []byte(`<testsuite><testcase name="a"><failure/></testcase></testsuite>`))
	f.Add("CUCUMBERJSON", []byte(`[{"elements":[{"steps":[{}]}]}]`))
	f.Fuzz(func(t *testing.T, format string, data []byte) {
		cases, _, err := Parse(format, strings.NewReader(string(data)))
		if err != nil && cases != nil {
			t.Fatal("both cases and an error")
		}
	})
}
