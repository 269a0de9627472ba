package appspec

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Platform is what an application specification file is for.
type Platform int

// The platforms, in CodeDeploy's words.
const (
	Server Platform = iota // EC2 and on premises
	ECS
	Lambda
)

func (p Platform) String() string {
	return [...]string{"servers", "Amazon ECS", "AWS Lambda"}[p]
}

// advice is what to do with a file for another platform.
func (p Platform) advice() string {
	switch p {
	case ECS:
		return "declare the environment with target: services and a compose.yaml; " +
			"for servers write os:, files: and hooks: instead of Resources"
	case Lambda:
		return "declare the environment with target: function; " +
			"for servers write os:, files: and hooks: instead of Resources"
	}
	return ""
}

// at is where a file says so.
func (Platform) at(top *yaml.Node) *yaml.Node {
	for key := range yamlfile.Pairs(top) {
		if strings.EqualFold(key.Value, "resources") {
			return key
		}
	}
	return top
}

// platformOf says what a file is for: Server, if it names no resource of another
// platform. It looks at the types of resources, whose keys differ in case in what
// people write.
func platformOf(top *yaml.Node) Platform {
	for key, resources := range yamlfile.Pairs(top) {
		if !strings.EqualFold(key.Value, "resources") {
			continue
		}
		for _, entry := range resources.Content {
			for _, resource := range yamlfile.Pairs(entry) {
				for field, value := range yamlfile.Pairs(resource) {
					switch {
					case !strings.EqualFold(field.Value, "type"):
					case value.Value == "AWS::ECS::Service":
						return ECS
					case value.Value == "AWS::Lambda::Function":
						return Lambda
					}
				}
			}
		}
	}
	return Server
}
