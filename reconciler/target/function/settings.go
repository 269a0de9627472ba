package function

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// settingsFile says, beside appspec.yml, what functions are like that are not as Lambda's
// are by default.
const settingsFile = "function.yaml"

// Reads are the files that Check wants of an application's directory.
var Reads = append(slices.Clone(appspec.Names), settingsFile)

// Settings are what an application's directory declares.
type Settings struct {
	Spec       *appspec.LambdaSpec
	Functions  map[string]*Function // by name, the appspec's and those of its hooks among them
	Invoke     int                  // port of the invoke API on loopback; 0: any
	Deployment services.Deployment
	Engine     string // "": this machine's own; or engineAWS
	Region     string // of AWS; "": as the SDK finds it
}

// Function is what a function is like.
type Function struct {
	Name     string
	Artifact string // of the release; "": the one named like the function, or the only one
	artifact int    // line of Artifact
	Config   Config

	Concurrency int           // instances at most
	Idle        time.Duration // after which an instance is ended
	URL         *URL          // nil: it has none
}

// Config is what makes, with the code, a version: another one is another version. A field
// that is added must be left out of the JSON when it is not used, so that versions stay
// what they were when Headgate is upgraded.
type Config struct {
	Runtime     string            `json:"runtime"`
	Handler     string            `json:"handler"`
	Code        string            `json:"code,omitempty"` // directory in the artifact, or a zip file there; "": all of it
	Memory      int               `json:"memory"`         // MB
	Timeout     time.Duration     `json:"timeout"`
	Environment map[string]string `json:"environment,omitempty"`
}

// URL is the address at which a function answers ordinary requests.
type URL struct {
	IP     netip.Addr // of none: the server's for services
	Port   int
	Stream bool // answers go out while they are made
	line   int
}

// Defaults, as Lambda has them, and bounds.
const (
	defaultMemory      = 128
	defaultTimeout     = 3 * time.Second
	defaultConcurrency = 10
	defaultIdle        = 10 * time.Minute
	maxFunctionTimeout = 15 * time.Minute
	maxConcurrency     = 1000
	maxFunctions       = 20
	maxEnvironment     = 64 << 10 // Lambda has 4 KB
)

// Check says what is wrong with the files of an application's directory.
func Check(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
	_, problems, warnings = read(dir, files)
	return problems, warnings
}

// Addresses are those that the files of an application's directory declare. A file that is
// not good declares none.
func Addresses(files map[string][]byte) (all []target.Address) {
	s, problems, _ := read("", files)
	if len(problems) > 0 {
		return nil
	}
	if s.Invoke > 0 {
		all = append(all, target.Address{
			Address: netip.AddrPortFrom(loopback, uint16(s.Invoke)),
			Unit:    s.Spec.Name,
			File:    settingsFile,
		})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Functions)) {
		if u := s.Functions[name].URL; u != nil && u.Port > 0 {
			all = append(all, target.Address{
				Address: netip.AddrPortFrom(u.IP, uint16(u.Port)),
				Unit:    name,
				File:    settingsFile,
				Line:    u.line,
			})
		}
	}
	return all
}

// Parts are the artifacts of a release that the files of an application's directory name.
func Parts(files map[string][]byte) (all []target.PartUse) {
	s, problems, _ := read("", files)
	if len(problems) > 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Functions)) {
		if f := s.Functions[name]; f.Artifact != "" {
			all = append(all, target.PartUse{Name: f.Artifact, Unit: name, File: settingsFile, Line: f.artifact})
		}
	}
	return all
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func read(dir string, files map[string][]byte) (s *Settings, problems, warnings yamlfile.Problems) {
	s = &Settings{Functions: map[string]*Function{}}
	for _, name := range appspec.Names {
		data, ok := files[name]
		if !ok {
			continue
		}
		spec, warnings, err := appspec.ParseLambda(path.Join(dir, name), data)
		if err != nil {
			problems, _ = yamlfile.ProblemsIn(err)
			return nil, problems, warnings
		}
		s.Spec = spec
		p := &parser{file: path.Join(dir, settingsFile)}
		if data, ok := files[settingsFile]; ok {
			p.settings(s, data)
		}
		p.complete(s)
		return s, p.problems, warnings
	}
	return nil, yamlfile.Problems{{
		File: path.Join(dir, appspec.Names[0]),
		What: "is not there",
		Fix:  "add it, with the function and its alias under Resources, or name its directory with path: in headgate.yaml",
	}}, nil
}

// parser reads function.yaml.
type parser struct {
	file     string
	problems yamlfile.Problems
}

func (p *parser) problem(n *yaml.Node, fix, format string, args ...any) {
	p.problems = append(p.problems,
		yamlfile.Problem{File: p.file, Line: n.Line, What: fmt.Sprintf(format, args...), Fix: fix})
}

// fileText and functionText are the file as it is written.
type (
	fileText struct {
		Invoke     yaml.Node               `yaml:"invoke"`
		Functions  map[string]functionText `yaml:"functions"`
		Deployment yaml.Node               `yaml:"deployment"`
		Engine     yaml.Node               `yaml:"engine"`
		Region     yaml.Node               `yaml:"region"`
	}
	functionText struct {
		Runtime     yaml.Node         `yaml:"runtime"`
		Handler     yaml.Node         `yaml:"handler"`
		Artifact    yaml.Node         `yaml:"artifact"`
		Code        yaml.Node         `yaml:"code"`
		Memory      yaml.Node         `yaml:"memory"`
		Timeout     yaml.Node         `yaml:"timeout"`
		Environment map[string]string `yaml:"environment"`
		Concurrency yaml.Node         `yaml:"concurrency"`
		Idle        yaml.Node         `yaml:"idle"`
		URL         yaml.Node         `yaml:"url"`
		Stream      bool              `yaml:"stream"`
	}
)

func (p *parser) settings(s *Settings, data []byte) {
	top, err := yamlfile.Parse(p.file, data)
	if err != nil {
		p.problems, _ = yamlfile.ProblemsIn(err)
		return
	}
	var text fileText
	if err := yamlfile.DecodeNode(p.file, top, &text); err != nil {
		p.problems, _ = yamlfile.ProblemsIn(err)
		return
	}
	if given(text.Invoke) {
		s.Invoke = p.integer(&text.Invoke, "invoke", 1, 65535)
	}
	p.engine(s, &text)
	if len(text.Functions) > maxFunctions {
		p.problem(top, "split the application", "declares more than %d functions", maxFunctions)
		return
	}
	for key, value := range yamlfile.Pairs(top) {
		if key.Value != "functions" {
			continue
		}
		for name, at := range yamlfile.Pairs(value) {
			if !appspec.FunctionName().MatchString(name.Value) {
				p.problem(name, "use letters, digits, _ and -, at most 64", "function name %q", name.Value)
				continue
			}
			s.Functions[name.Value] = p.function(name.Value, at, text.Functions[name.Value])
		}
	}
	if given(text.Deployment) {
		var found yamlfile.Problems
		s.Deployment, found = services.ParseFunctionDeployment(p.file, &text.Deployment, "deployment")
		p.problems = append(p.problems, found...)
	}
}

// engine reads where functions are, and refuses what is said at AWS itself.
func (p *parser) engine(s *Settings, text *fileText) {
	if given(text.Engine) && text.Engine.Value != "local" {
		if s.Engine = text.Engine.Value; s.Engine != engineAWS {
			p.problem(&text.Engine, "write aws, or local", "engine is %s", yamlfile.Describe(&text.Engine))
		}
	}
	if given(text.Region) {
		if s.Region = text.Region.Value; s.Engine != engineAWS || !regionForm().MatchString(s.Region) {
			p.problem(&text.Region, "write engine: aws, and for example region: eu-central-1", "region is %q", s.Region)
		}
	}
	if s.Engine != engineAWS {
		return
	}
	if given(text.Invoke) {
		p.problem(&text.Invoke, "leave it out", "invoke is about functions of this machine")
	}
	for name, f := range text.Functions {
		for key, n := range map[string]yaml.Node{
			"runtime": f.Runtime, "handler": f.Handler, "memory": f.Memory, "timeout": f.Timeout,
			"concurrency": f.Concurrency, "idle": f.Idle, "url": f.URL,
		} {
			if given(n) {
				p.problem(&n, "leave it out, and set it at AWS", "functions.%s.%s: the engine aws changes a function's code alone", name, key)
			}
		}
		if len(f.Environment) > 0 || f.Stream {
			p.problem(&text.Engine, "leave them out, and set them at AWS",
				"functions.%s: environment and stream: the engine aws changes a function's code alone", name)
		}
	}
}

func given(n yaml.Node) bool { return n.Kind != 0 && n.ShortTag() != "!!null" }

func defaultFunction(name string) *Function {
	return &Function{
		Name:        name,
		Concurrency: defaultConcurrency,
		Idle:        defaultIdle,
		Config: Config{
			Runtime: provided,
			Handler: "bootstrap",
			Memory:  defaultMemory,
			Timeout: defaultTimeout,
		},
	}
}

func (p *parser) function(name string, at *yaml.Node, text functionText) *Function {
	f := defaultFunction(name)
	under := "functions." + name + "."
	if given(text.Runtime) {
		f.Config.Runtime = text.Runtime.Value
		if why, fix := refuseRuntime(text.Runtime.Value); why != "" {
			p.problem(&text.Runtime, fix, "%sruntime %q %s", under, text.Runtime.Value, why)
		}
	}
	managed := !strings.HasPrefix(f.Config.Runtime, "provided")
	switch {
	case given(text.Handler) && handlerForm().MatchString(text.Handler.Value):
		f.Config.Handler = text.Handler.Value
	case given(text.Handler):
		p.problem(&text.Handler, "write the handler's name, such as index.handler", "%shandler is %s", under,
			yamlfile.Describe(&text.Handler))
	case managed:
		p.problem(at, "add handler: index.handler", "%sruntime %s needs a handler", under, f.Config.Runtime)
	}
	if given(text.Artifact) {
		f.Artifact, f.artifact = text.Artifact.Value, text.Artifact.Line
	}
	if given(text.Code) {
		clean := path.Clean(text.Code.Value)
		if text.Code.Kind != yaml.ScalarNode || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") ||
			strings.ContainsAny(clean, "\x00\n") {
			p.problem(&text.Code, "write a directory or a zip file of the artifact, such as dist/hello.zip", "%scode is %s",
				under, yamlfile.Describe(&text.Code))
		}
		f.Config.Code = strings.TrimPrefix(clean, ".")
	}
	if given(text.Memory) {
		f.Config.Memory = p.integer(&text.Memory, under+"memory", 128, 10240)
	}
	if given(text.Timeout) {
		f.Config.Timeout = p.duration(&text.Timeout, under+"timeout", time.Second, maxFunctionTimeout)
	}
	if given(text.Concurrency) {
		f.Concurrency = p.integer(&text.Concurrency, under+"concurrency", 1, maxConcurrency)
	}
	if given(text.Idle) {
		f.Idle = p.duration(&text.Idle, under+"idle", time.Second, 24*time.Hour)
	}
	f.Config.Environment = p.environment(at, under, text.Environment)
	switch {
	case given(text.URL):
		f.URL = p.url(&text.URL, under)
		f.URL.Stream = text.Stream
	case text.Stream:
		p.problem(at, "add url: 8080, or leave stream out", "%sstream is about the function's URL, and it has none", under)
	}
	return f
}

var (
	regionForm   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]$`) })
	handlerForm  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[^\s\x00-]\S{0,127}$`) })
	variableForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`) })
)

// reservedVariables are those that the runtime is told things by.
var reservedVariables = []string{
	"_HANDLER", "_X_AMZN_TRACE_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_ACCESS_KEY",
	"AWS_ACCESS_KEY_ID",
	"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
}

func (p *parser) environment(at *yaml.Node, under string, all map[string]string) map[string]string {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		size += len(name) + len(all[name])
		switch {
		case !variableForm().MatchString(name):
			p.problem(at, "use letters, digits and _", "%senvironment: variable name %q", under, name)
		case slices.Contains(reservedVariables, name) || strings.HasPrefix(name, "AWS_LAMBDA_"):
			p.problem(at, "give yours another name", "%senvironment: %s is set by Lambda", under, name)
		case strings.ContainsRune(all[name], 0):
			p.problem(at, "remove it", "%senvironment: %s holds a NUL byte", under, name)
		}
	}
	if size > maxEnvironment {
		p.problem(at, "put some of it into a file of the artifact", "%senvironment takes %d bytes, of %d at most", under,
			size, maxEnvironment)
	}
	return all
}

func (p *parser) url(n *yaml.Node, under string) *URL {
	const form = `write a port, such as 8080, or "0.0.0.0:8080"`
	u := &URL{line: n.Line}
	port := n.Value
	if i := strings.LastIndex(n.Value, ":"); i >= 0 {
		ip, err := netip.ParseAddr(strings.Trim(n.Value[:i], "[]"))
		if err != nil {
			p.problem(n, form, "%surl: %q is not an IP address", under, n.Value[:i])
		}
		u.IP, port = ip, n.Value[i+1:]
	}
	v, err := strconv.Atoi(port)
	if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v > 65535 {
		p.problem(n, form, "%surl is %s", under, yamlfile.Describe(n))
	}
	u.Port = v
	return u
}

func (p *parser) integer(n *yaml.Node, what string, low, high int) int {
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < low || v > high {
		p.problem(n, fmt.Sprintf("write a number from %d to %d", low, high), "%s is %s", what, yamlfile.Describe(n))
		return low
	}
	return v
}

// duration takes "3s" and, as Lambda has it, a number of seconds.
func (p *parser) duration(n *yaml.Node, what string, low, high time.Duration) time.Duration {
	text := n.Value
	if allDigits := strings.Trim(text, "0123456789") == ""; allDigits && text != "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if n.Kind != yaml.ScalarNode || err != nil || d < low || d > high {
		p.problem(n, fmt.Sprintf("write a duration from %s to %s, such as 10s", low, high), "%s is %s", what,
			yamlfile.Describe(n))
		return low
	}
	return d
}

// complete adds the function that the appspec names, and wants those of its hooks.
func (p *parser) complete(s *Settings) {
	if s.Functions[s.Spec.Name] == nil {
		s.Functions[s.Spec.Name] = defaultFunction(s.Spec.Name)
	}
	for event, name := range map[string]string{"BeforeAllowTraffic": s.Spec.Before, "AfterAllowTraffic": s.Spec.After} {
		switch {
		case name == "" || s.Functions[name] != nil:
		case name == s.Spec.Name:
		default:
			p.problems = append(p.problems, yamlfile.Problem{
				File: s.Spec.File,
				What: fmt.Sprintf("hook %s names the function %s, which is not declared", event, name),
				Fix:  fmt.Sprintf("add functions: {%s: {code: %s}} to %s", name, name, settingsFile),
			})
		}
	}
	slices.SortStableFunc(p.problems, func(a, b yamlfile.Problem) int { return a.Line - b.Line })
	urls := map[int]string{s.Invoke: "invoke"}
	delete(urls, 0)
	for _, name := range slices.Sorted(maps.Keys(s.Functions)) {
		u := s.Functions[name].URL
		if u == nil {
			continue
		}
		if other, taken := urls[u.Port]; taken {
			p.problems = append(p.problems, yamlfile.Problem{
				File: p.file,
				Line: u.line,
				What: fmt.Sprintf("port %d is that of %s", u.Port, other),
				Fix:  "give each a port of its own",
			})
		}
		urls[u.Port] = "functions." + name
	}
}
