package appspec

import (
	"strings"
	"testing"
)

const lambdaYAML = `version: 0.0
Resources:
  - myFunction:
      Type: AWS::Lambda::Function
      Properties:
        Name: hello
        Alias: live
        CurrentVersion: "1"
        TargetVersion: 2
Hooks:
  - BeforeAllowTraffic: "arn:aws:lambda:us-east-1:123456789012:function:validateBefore"
  - AfterAllowTraffic: validateAfter
`

// TestLambda: what people bring is read, in YAML and in JSON, whatever the case of keys.
func TestLambda(t *testing.T) {
	want := LambdaSpec{
		Name:    "hello",
		Alias:   "live",
		Current: 1,
		Target:  2,
		Before:  "validateBefore",
		After:   "validateAfter",
	}
	lower := lambdaYAML
	for _, key := range []string{"Resources", "Type", "Properties", "Name:", "Alias", "CurrentVersion",
		"TargetVersion", "Hooks"} {
		lower = strings.Replace(lower, key, strings.ToLower(key), 1)
	}
	for form, text := range map[string]string{
		"yaml":  lambdaYAML,
		"lower": lower,
		"json": `{"version": 0.0, "Resources": [{"f": {"Type": "AWS::Lambda::Function",
			"Properties": {"Name": "hello", "Alias": "live", "CurrentVersion": "1", "TargetVersion": "2"}}}],
			"Hooks": [{"BeforeAllowTraffic": "validateBefore"}, {"AfterAllowTraffic": "validateAfter"}]}`,
		"one mapping of hooks": strings.NewReplacer("  - Before", "  Before", "  - After", "  After").Replace(lambdaYAML),
	} {
		got, warnings, err := ParseLambda("appspec.yml", []byte(text))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", form, warnings, err)
			continue
		}
		got.File, got.At = "", Position{}
		if *got != want {
			t.Errorf("%s: read %+v", form, *got)
		}
	}
	short := "version: 0.0\nresources:\n- f: {type: AWS::Lambda::Function, properties: {name: f, alias: live}}\n"
	if got, _, err := ParseLambda("appspec.yml", []byte(short)); err != nil || got.Current != 0 || got.Target != 0 ||
		got.Before != "" {
		t.Errorf("without versions: %+v, %v", got, err)
	}
}

// TestLambdaRefuses: what CodeDeploy would refuse is refused by its place, with what to do.
func TestLambdaRefuses(t *testing.T) {
	change := strings.NewReplacer
	for want, text := range map[string]string{
		`appspec.yml:1:10: version is the text "0.0"`: change("version: 0.0",
			`version: "0.0"`).Replace(lambdaYAML),
		`appspec.yml:9:24: resource myFunction: CurrentVersion and TargetVersi`: change("TargetVersion: 2",
			"TargetVersion: 1").Replace(lambdaYAML),
		`appspec.yml:9:24: TargetVersion of resource myFunction is "$LATEST"`: change("TargetVersion: 2",
			"TargetVersion: $LATEST").Replace(lambdaYAML),
		`appspec.yml:9:24: TargetVersion of resource myFunction is "0"`: change("TargetVersion: 2",
			"TargetVersion: 0").Replace(lambdaYAML),
		`appspec.yml:4:13: resource myFunction is not of the type`: change("Lambda::F",
			"Lambda::f").Replace(lambdaYAML),
		`appspec.yml:6:9: resource myFunction has no Alias`: change("        Alias: live\n",
			"").Replace(lambdaYAML),
		`appspec.yml:7:16: Alias of resource myFunction is "12", which looks`: change("live", `"12"`).Replace(lambdaYAML),
		`appspec.yml:6:15: Name of resource myFunction is "a b"`: change("Name: hello",
			"Name: a b").Replace(lambdaYAML),
		`appspec.yml:12:5: functions have no lifecycle event "ApplicationStart"`: change("AfterAllowTraffic",
			"ApplicationStart").Replace(lambdaYAML),
		`appspec.yml:12:5: hook BeforeAllowTraffic is given twice`: change("AfterAllowTraffic",
			"BeforeAllowTraffic").Replace(lambdaYAML),
		`appspec.yml:1:1: is for servers, not for AWS Lambda`:    "version: 0.0\nos: linux\n",
		`appspec.yml:2:1: is for Amazon ECS, not for AWS Lambda`: "version: 0.0\nResources:\n  - t: {Type: AWS::ECS::Service}\n",
		`appspec.yml:4:5: Resources has more than one function`: "version: 0.0\nResources:\n  - a: {Type: AWS::Lambda::Function, Properties: {Name: a, Alias: l}}\n" +
			"  - b: {Type: AWS::Lambda::Function, Properties: {Name: b, Alias: l}}\n",
	} {
		_, _, err := ParseLambda("appspec.yml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "; ") {
			t.Errorf("want %s…\n got %v", want, err)
		}
	}
}
