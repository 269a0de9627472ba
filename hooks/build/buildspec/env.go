package buildspec

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Variable is one of env.variables; its value is literal text (B32, B33).
type Variable struct{ Name, Value string }

// Where the value of a Secret is.
const (
	ParameterStore = "parameter-store"
	SecretsManager = "secrets-manager"
)

// Secret is a variable whose value stands elsewhere (B35).
type Secret struct {
	Variable string
	Store    string // ParameterStore or SecretsManager
	Name     string // in the store
	ID       string // the name as it is written, which may be an ARN
	Stage    string // of the version; "" is the current one
	Version  string // "" is that of Stage
	Key      string // of the JSON object that the value is; "" is the whole value
	Line     int
	Column   int
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *reader) env(n *yaml.Node) {
	known := []string{"shell", "variables", ParameterStore, SecretsManager, "exported-variables", "git-credential-helper"}
	r.mapping(n, "env", func() {
		var exported *yaml.Node
		r.keys(n, "env", known, func(key, value *yaml.Node) {
			switch key.Value {
			case "shell":
				r.shell(value)
			case "variables":
				r.variables(value)
			case ParameterStore, SecretsManager:
				r.secrets(key.Value, value)
			case "exported-variables":
				exported = value
			case "git-credential-helper":
				if r.yes(value, key.Value) {
					r.warn(key, "git-credential-helper has no effect here: builds have no credentials")
				}
			}
		})
		r.exported(exported)
	})
}

func (r *reader) shell(n *yaml.Node) {
	text := r.text(n, "env.shell")
	switch shell := text[strings.LastIndexByte(text, '/')+1:]; shell {
	case "sh", "bash":
		r.spec.Shell = shell
	case "":
	default:
		r.refuse(n, "use sh or bash", "shell %q is not here", text)
	}
}

// name checks the name of a variable that a file sets.
func (r *reader) name(n *yaml.Node) {
	switch name := n.Value; {
	case n.Kind != yaml.ScalarNode || !variableForm.MatchString(name):
		r.refuse(n, "use letters, digits and '_'", "%q is not a name for a variable", name)
	case strings.HasPrefix(name, "CODEBUILD_") && name != "CODEBUILD_CONFIG_AUTO_DISCOVER" &&
		name != "CODEBUILD_CONFIG_AUTO_DISCOVER_DIR":
		r.refuse(n, "choose another name", "%s: names beginning with CODEBUILD_ are CodeBuild's own", name)
	}
}

func (r *reader) variables(n *yaml.Node) {
	r.spec.Variables = append(r.spec.Variables, r.variablesOf(n, "env.variables")...)
}

func (r *reader) variablesOf(n *yaml.Node, what string) (list []Variable) {
	r.mapping(n, what, func() {
		r.pairs(n, func(key, value *yaml.Node) {
			v := Variable{key.Value, value.Value}
			r.name(key)
			switch {
			case value.Kind != yaml.ScalarNode:
				r.refuse(value, "write its value as text", "variable %s is not text", key.Value)
			case strings.ContainsRune(v.Value, 0):
				r.refuse(value, "remove it", "variable %s holds a zero byte", v.Name)
			case null(value):
				v.Value = ""
			}
			list = append(list, v)
		})
	})
	return list
}

func (r *reader) secrets(store string, n *yaml.Node) {
	r.mapping(n, "env."+store, func() {
		r.pairs(n, func(key, value *yaml.Node) {
			r.name(key)
			text := r.text(value, "env."+store+"."+key.Value)
			s := Secret{Variable: key.Value, Store: store, Line: value.Line, Column: value.Column}
			s.Name, s.ID = text, text
			if store == SecretsManager {
				r.secretID(value, text, &s)
			}
			if s.Name == "" {
				r.refuse(key, "name the secret behind it", "env.%s.%s names nothing", store, key.Value)
				return
			}
			r.spec.Secrets = append(r.spec.Secrets, s)
		})
	})
}

var arnForm = regexp.MustCompile(`^arn:[^:]*:secretsmanager:[^:]*:[^:]*:secret:([^:]+)(?::(.*))?$`)

// secretID reads "id[:json-key[:version-stage[:version-id]]]", where id may be an
// ARN, whose six random characters are not part of the name.
func (r *reader) secretID(at *yaml.Node, text string, s *Secret) {
	var rest string
	if m := arnForm.FindStringSubmatch(text); m != nil {
		s.Name, rest = m[1], m[2]
		if i := len(s.Name) - 7; i > 0 && s.Name[i] == '-' {
			s.Name = s.Name[:i]
		}
	} else {
		s.Name, rest, _ = strings.Cut(text, ":")
	}
	parts := append(strings.Split(rest, ":"), "", "")
	s.Key = parts[0]
	s.ID = strings.TrimSuffix(text, ":"+rest)
	stage, id := parts[1], parts[2]
	switch {
	case stage != "" && id != "":
		r.refuse(at, "keep one of them", "%q names both a version-stage and a version-id", text)
	case len(parts) > 5:
		r.refuse(at, "write secret-id:json-key:version-stage:version-id", "%q has too many parts", text)
	}
	if s.Version = id; stage != "AWSCURRENT" {
		s.Stage = stage
	}
}

func (r *reader) exported(n *yaml.Node) {
	for _, name := range r.texts(n, "exported-variables") {
		secret := slices.ContainsFunc(r.spec.Secrets, func(s Secret) bool { return s.Variable == name })
		switch {
		case !variableForm.MatchString(name):
			r.refuse(n, "use letters, digits and '_'", "%q is not a name for a variable", name)
		case secret:
			r.refuse(n, "remove it: who reads the build would read the secret", "%s is a secret, which is not exported", name)
		case strings.HasPrefix(name, "AWS_"):
			r.refuse(n, "give the value to a variable of another name", "%s: names beginning with AWS_ are not exported", name)
		default:
			r.spec.Exported = append(r.spec.Exported, name)
		}
	}
}
