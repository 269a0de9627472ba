package access

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// AWSStores is what of AWS's own stores the builds of a repository are given. The
// credentials are the server's.
type AWSStores struct {
	Region     string   // "": that of the server's own settings for AWS
	Parameters []string // names of parameters of Parameter Store; one that ends in * is a beginning
	Secrets    []string // likewise of Secrets Manager
}

// Parameter reports whether a parameter is for builds.
func (s AWSStores) Parameter(name string) bool { return matches(s.Parameters, name) }

// Secret reports whether a secret is for builds.
func (s AWSStores) Secret(name string) bool { return matches(s.Secrets, name) }

func matches(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		prefix, open := strings.CutSuffix(n, "*")
		return n == name || open && strings.HasPrefix(name, prefix) && len(name) > len(prefix)
	})
}

var (
	awsName   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]{1,511}\*?$`) })
	awsRegion = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z]{2,4}(-[a-z]{2,12}){1,3}-[0-9]{1,2}$`)
	})
)

// maxAWSNames bounds each list of AWSStores.
const maxAWSNames = 100

// awsStores reads which of AWS's parameters and secrets builds are given.
func (r *reader) awsStores(n *yaml.Node, under string) (s AWSStores) {
	_, aws := lookup(n, "aws")
	if aws == nil || aws.Tag == "!!null" {
		return s
	}
	under += ".aws"
	if aws.Kind != yaml.MappingNode {
		r.problem(aws, `write {region: eu-north-1, secrets: ["hello/*"]}`, "%s is not a mapping", under)
		return s
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, aws)...)
	for key, value := range yamlfile.Pairs(aws) {
		switch key.Value {
		case "region":
			if value.Kind != yaml.ScalarNode || !awsRegion().MatchString(value.Value) {
				r.problem(value, "write one such as eu-north-1", "%s.region is not the name of a region", under)
			}
			s.Region = value.Value
		case "parameters":
			s.Parameters = r.awsNames(value, under+".parameters")
		case "secrets":
			s.Secrets = r.awsNames(value, under+".secrets")
		default:
			r.problems = append(r.problems,
				yamlfile.UnknownKey(r.file, key, under, []string{"region", "parameters", "secrets"}))
		}
	}
	return s
}

func (r *reader) awsNames(list *yaml.Node, under string) (names []string) {
	if list.Kind != yaml.SequenceNode || len(list.Content) > maxAWSNames {
		r.problem(list, `write a list of names, such as ["hello/*"]`, "%s is not a list of at most %d names", under, maxAWSNames)
		return nil
	}
	for _, name := range list.Content {
		if name.Kind != yaml.ScalarNode || !awsName().MatchString(name.Value) {
			r.problem(name, "write its name, or how names begin and then *", "%s has %q, which is not a name", under, name.Value)
			continue
		}
		names = append(names, name.Value)
	}
	return names
}
