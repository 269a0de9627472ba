package main

import (
	"encoding/json"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
)

// kinds are tried in this order; the first that finds itself is the project's.
var kinds = []func(sources) (project, bool){
	goProject, rustProject, javaProject, nodeProject, phpProject, rubyProject, pythonProject, perlProject, makeProject,
	staticProject, dockerProject,
}

// recognise looks at a project.
func recognise(s sources) (project, error) {
	var p project
	found := false
	for _, kind := range kinds {
		if p, found = kind(s); found {
			break
		}
	}

	for _, name := range []string{"buildspec.yml", "buildspec.yaml", ".buildspec.yml"} {
		if s.has(name) {
			p.buildspec = name
			p.sawf("a buildspec: %s, which is how it is built", name)
			break
		}
	}
	if !found && p.buildspec == "" {
		return p, errors.New(
			"nothing here says how it is built: no go.mod, package.json, pyproject.toml, requirements.txt, Gemfile, pom.xml, build.gradle,\n" +
				"  composer.json, Cargo.toml, cpanfile, Makefile, Dockerfile, index.html or buildspec.yml\n" +
				`hint: write buildspec.yml: version: 0.2, phases: {build: {commands: ["./test.sh"]}}`)
	}
	if !found {
		p.kind = "built"
	}

	if line := procfile(s.read("Procfile")); line != "" {
		p.command = shellCommand(line)
		p.sawf("a Procfile: web is %s", line)
	}
	composeOf(&p, s)
	if name := s.first("appspec.yml", "appspec.yaml"); name != "" {
		p.sawf("CodeDeploy's %s", name)
		p.note(
			"%s is not read: its hooks are not run here. What ApplicationStart starts is the command of deploy/*/compose.yaml", name)
	}
	if s.has("Dockerfile") && p.kind != "Dockerfile" {
		p.sawf("a Dockerfile, which is not needed: what runs is a process of the release")
	}
	if p.command != "" && p.kind != "static" && !strings.Contains(p.command, "$PORT") && !s.mentions("PORT", "*") {
		p.deaf = true
		p.note(
			"nothing here reads $PORT: the process must listen on 127.0.0.1:$PORT, a port that differs from instance to instance")
	}
	if len(p.test) == 0 && p.buildspec == "" {
		p.note("no tests were found: what builds lands. Add their command to buildspec.yml")
	}
	return p, nil
}

func goProject(s sources) (p project, ok bool) {
	mod := s.read("go.mod")
	if mod == "" {
		return p, false
	}
	p.kind = "Go"
	module := ""
	if m := regexp.MustCompile(`(?m)^module\s+(\S+)`).FindStringSubmatch(mod); m != nil {
		module = m[1]
	}
	main, several := "", 0
	for _, name := range s.find("*.go") {
		if strings.HasSuffix(name, "_test.go") || !regexp.MustCompile(`(?m)^package main\b`).MatchString(s.read(name)) {
			continue
		}
		dir := path.Dir(name)
		switch {
		case main == "" || dir == ".":
			main, several = dir, several+1
		case dir != main:
			several++
		}
	}
	p.sawf("a Go module: %s", module)
	p.build = []string{`# Where Go is when it came from go.dev; add the directory of yours.`,
		`export PATH="$PATH:/usr/local/go/bin:/usr/lib/go/bin"`}
	p.variables = []string{"GOFLAGS=-buildvcs=false"}
	if regexp.MustCompile(`(?m)^\s*require\b|^\t\S+ v\d`).MatchString(mod) && !s.has("vendor/modules.txt") {
		p.network = "its modules are downloaded"
	}
	if len(s.find("*_test.go")) > 0 {
		p.tests("go vet ./...", "go test ./...")
	} else {
		p.build = append(p.build, "go vet ./...")
	}
	if main == "" {
		p.build = append(p.build, "go build ./...")
		return p, true
	}
	target := "."
	if main != "." {
		target = "./" + main
	}
	p.sawf("a program: %s", target)
	if several > 1 {
		p.note("there are more programs than %s: build and run the others too where they are needed", target)
	}
	p.build = append(p.build, "go build -o app "+target)
	p.artifacts, p.command = []string{"app"}, "./app"
	for _, dir := range []string{"static", "public", "templates", "assets", "web"} {
		if s.has(dir) && !s.has(path.Join(dir, "go.mod")) {
			p.artifacts = append(p.artifacts, dir+"/**/*")
		}
	}
	return p, true
}

func rustProject(s sources) (p project, ok bool) {
	cargo := s.read("Cargo.toml")
	if cargo == "" {
		return p, false
	}
	p.kind = "Rust"
	name := tomlString(cargo, "package", "name")
	p.sawf("a Rust package: %s", name)
	p.build = []string{"# Where cargo is when it was installed for everybody; add the directory of yours.",
		`export PATH="$PATH:/usr/local/cargo/bin:/opt/rust/bin"`}
	if regexp.MustCompile(`(?m)^\[(\w+[.-])*dependencies[.\]]`).MatchString(cargo) && !s.has("vendor") {
		p.network = "its crates are downloaded"
	}
	locked := ""
	if s.has("Cargo.lock") {
		locked = " --locked"
	}
	p.tests("cargo test" + locked)
	if !s.has("src/main.rs") || name == "" {
		return p, true
	}
	p.build = append(p.build, "cargo build --release"+locked, "cp target/release/"+name+" app")
	p.artifacts, p.command = []string{"app"}, "./app"
	return p, true
}

// tomlString is a string of a table of TOML, as far as that is written as everybody writes it.
func tomlString(text, table, key string) string {
	in := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = line == "["+table+"]"
			continue
		}
		if k, v, ok := strings.Cut(line, "="); in && ok && strings.TrimSpace(k) == key {
			v, _, _ = strings.Cut(strings.TrimSpace(v), "#")
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}

func javaProject(s sources) (p project, ok bool) {
	file := s.first("pom.xml", "build.gradle", "build.gradle.kts")
	if file == "" {
		return p, false
	}
	p.kind, p.network = "Java", "its dependencies are downloaded"
	p.sawf("a Java project: %s", file)
	text := s.read(file)
	jars := "target"
	if file == "pom.xml" {
		mvn := "mvn"
		if s.has("mvnw") {
			mvn = "sh mvnw"
		}
		p.tests(mvn + " --batch-mode --no-transfer-progress verify")
	} else {
		jars = "build/libs"
		gradle := "gradle"
		if s.has("gradlew") {
			gradle = "sh gradlew"
		}
		p.tests(gradle + " --no-daemon build")
	}
	spring := strings.Contains(text, "spring-boot")
	if !spring && !strings.Contains(text, "mainClass") && !strings.Contains(text, "Main-Class") &&
		!strings.Contains(text, "application") {
		return p, true
	}
	p.build = append(p.build, "# The one with all that it needs, which is the largest.",
		`cp "$(ls -S `+jars+`/*.jar | head -n 1)" app.jar`)
	p.artifacts, p.command = []string{"app.jar"}, "java -jar app.jar"
	if spring {
		p.command += " --server.address=127.0.0.1 --server.port=$PORT"
	}
	return p, true
}

func nodeProject(s sources) (p project, ok bool) {
	text := s.read("package.json")
	if text == "" {
		return p, false
	}
	p.kind = "Node"
	var pkg struct {
		Name, Main                    string
		Scripts                       map[string]string
		Dependencies, DevDependencies map[string]any
	}
	if err := json.Unmarshal([]byte(text), &pkg); err != nil {
		p.note("package.json cannot be read: %v", err)
	}
	p.sawf("a Node package: %s", pkg.Name)
	run := "npm"
	if len(pkg.Dependencies)+len(pkg.DevDependencies) > 0 {
		p.network = "its packages are downloaded"
		switch {
		case s.has("pnpm-lock.yaml"):
			run, p.install = "pnpm", []string{"pnpm install --frozen-lockfile"}
		case s.has("yarn.lock"):
			run, p.install = "yarn", []string{"yarn install --frozen-lockfile"}
		case s.has("package-lock.json"):
			p.install = []string{"npm ci"}
		default:
			p.install = []string{"npm install"}
			p.note("there is no lock file: commit package-lock.json, so that every build has the same packages")
		}
	}
	if pkg.Scripts["build"] != "" {
		p.build = append(p.build, run+" run build")
	}
	test := pkg.Scripts["test"]
	switch {
	case test != "" && !strings.Contains(test, "no test specified"):
		p.tests(run + " test")
	case len(s.find("*.test.*js")) > 0 || s.has("test"):
		p.tests("node --test")
	}
	main := pkg.Main
	if main == "" || !s.has(main) {
		main = s.first("server.js", "index.js", "app.js", "server.mjs", "index.mjs", "src/server.js", "src/index.js")
	}
	if main != "" && len(p.test) == 0 {
		p.build = append(p.build, "node --check "+main)
	}
	start := pkg.Scripts["start"]
	switch {
	case strings.HasPrefix(start, "node ") && !strings.ContainsAny(start, "|&;<>(){}*?`\"'\\$="):
		p.command = start
	case start != "":
		p.command = run + " start"
	case main != "" && (s.mentions("listen(", "*js", "*.ts")):
		p.command = "node " + main
	case pkg.Scripts["build"] != "": // pages that are built
		p.artifacts = []string{"dist/**/*"}
		p.command = "python3 -m http.server $PORT --bind 127.0.0.1 --directory dist"
		p.note(
			"the pages are taken from dist/: name another directory in buildspec.yml and deploy/*/compose.yaml if the build writes elsewhere")
		return p, true
	}
	if p.command != "" {
		p.artifacts, p.runtime = []string{"**/*"}, []string{"NODE_ENV=production"}
	}
	return p, true
}

func phpProject(s sources) (p project, ok bool) {
	if !s.has("composer.json") && len(s.find("*.php")) == 0 {
		return p, false
	}
	p.kind = "PHP"
	p.sawf("a PHP project: %s", s.first("composer.json", "public/index.php", "index.php", "."))
	if s.has("composer.json") {
		p.network, p.install = "its packages are downloaded", []string{"composer install --no-interaction --prefer-dist"}
	}
	p.build = []string{`find . -name '*.php' -not -path './vendor/*' -print0 | xargs -0 -n 1 php -l`}
	if s.first("phpunit.xml", "phpunit.xml.dist") != "" {
		p.tests("vendor/bin/phpunit")
	}
	p.artifacts = []string{"**/*"}
	switch {
	case s.has("artisan"):
		p.command = "php artisan serve --host=127.0.0.1 --port=$PORT"
	case s.has("public/index.php"):
		p.command = "php -S 127.0.0.1:$PORT -t public"
	case s.has("index.php"):
		p.command = "php -S 127.0.0.1:$PORT"
	default:
		p.artifacts = nil
	}
	return p, true
}

func rubyProject(s sources) (p project, ok bool) {
	gems := s.read("Gemfile")
	if gems == "" && !s.has("config.ru") {
		return p, false
	}
	p.kind = "Ruby"
	p.sawf("a Ruby project: %s", s.first("Gemfile", "config.ru"))
	exec := ""
	if gems != "" {
		exec = "bundle exec "
		p.network, p.install = "its gems are downloaded", []string{"bundle install"}
		p.variables, p.runtime = []string{"BUNDLE_PATH=vendor/bundle"}, []string{"BUNDLE_PATH=vendor/bundle"}
	}
	switch {
	case s.has("spec"):
		p.tests(exec + "rspec")
	case s.has("bin/rails"):
		p.tests(exec + "rails test")
	case s.has("Rakefile") && strings.Contains(s.read("Rakefile"), "test"):
		p.tests(exec + "rake test")
	default:
		p.build = append(p.build, `find . -name '*.rb' -not -path './vendor/*' -print0 | xargs -0 -r -n 1 ruby -c`)
	}
	p.artifacts = []string{"**/*"}
	switch {
	case s.has("bin/rails"):
		p.command = exec + "rails server --binding 127.0.0.1 --port $PORT"
	case s.has("config.ru"):
		p.command = exec + "rackup --host 127.0.0.1 --port $PORT"
	case s.first("app.rb", "server.rb", "main.rb") != "":
		p.command = exec + "ruby " + s.first("app.rb", "server.rb", "main.rb")
	default:
		p.artifacts = nil
	}
	return p, true
}

func pythonProject(s sources) (p project, ok bool) {
	file := s.first("pyproject.toml", "requirements.txt", "setup.py", "Pipfile", "manage.py")
	if file == "" && len(s.find("*.py")) == 0 {
		return p, false
	}
	p.kind = "Python"
	program := s.first("main.py", "app.py", "server.py", "wsgi.py", "asgi.py")
	p.sawf("a Python project: %s", s.first(file, program, "."))
	needs := s.read("requirements.txt") + s.read("requirements-dev.txt") + s.read("pyproject.toml") + s.read("Pipfile")
	wants := func(name string) bool {
		return regexp.MustCompile(`(?im)(^|["'\s])` + name + `\b`).MatchString(needs)
	}
	const packages = ".packages"
	pip := "python3 -m pip install --quiet --target " + packages
	for _, name := range []string{"requirements.txt", "requirements-dev.txt"} {
		if strings.TrimSpace(s.read(name)) != "" {
			p.install = append(p.install, pip+" -r "+name)
		}
	}
	if len(p.install) == 0 && regexp.MustCompile(`(?m)^dependencies\s*=\s*\[[^\]]*["']`).MatchString(
		s.read("pyproject.toml")) {
		p.install = []string{pip + " ."}
	}
	if len(p.install) > 0 {
		p.network = "its packages are downloaded"
		p.variables, p.runtime = []string{"PYTHONPATH=" + packages}, []string{"PYTHONPATH=" + packages}
	}
	switch {
	case s.has("manage.py"):
		p.tests("python3 manage.py test")
	case wants("pytest"):
		p.tests("python3 -m pytest")
	case len(s.find("test*.py"))+len(s.find("*_test.py")) > 0:
		p.tests(unittests(s))
	default:
		p.build = append(p.build, `python3 -m compileall -q -x '/\.packages/' .`)
	}
	p.runtime = append(p.runtime, "PYTHONUNBUFFERED=1")
	module := strings.TrimSuffix(program, ".py")
	p.artifacts = []string{"**/*"}
	switch {
	case wants("gunicorn") && module != "":
		p.command = "python3 -m gunicorn --bind 127.0.0.1:$PORT " + module + ":app"
	case (wants("uvicorn") || wants("fastapi")) && module != "":
		p.command = "python3 -m uvicorn --host 127.0.0.1 --port $PORT " + module + ":app"
	case wants("flask") && module != "":
		p.command = "python3 -m flask --app " + module + " run --host 127.0.0.1 --port $PORT"
	case s.has("manage.py"):
		p.command = "python3 manage.py runserver --noreload 127.0.0.1:$PORT"
	case program != "":
		p.command = "python3 " + program
	default:
		p.artifacts, p.runtime = nil, nil
	}
	return p, true
}

// unittests is the command that runs what Python's unittest finds: at the top, or
// in a directory that is no package.
func unittests(s sources) string {
	for _, dir := range []string{"tests", "test"} {
		if s.has(dir) && !s.has(path.Join(dir, "__init__.py")) {
			return "python3 -m unittest discover --start-directory " + dir + " --pattern '*test*.py'"
		}
	}
	return "python3 -m unittest discover --pattern '*test*.py'"
}

func perlProject(s sources) (p project, ok bool) {
	file := s.first("cpanfile", "Makefile.PL", "Build.PL")
	if file == "" && len(s.find("*.t")) == 0 {
		return p, false
	}
	p.kind = "Perl"
	p.sawf("a Perl project: %s", s.first(file, "t", "."))
	if file == "cpanfile" {
		p.network, p.install = "its modules are downloaded", []string{"cpanm --quiet --local-lib local --installdeps ."}
		p.variables, p.runtime = []string{"PERL5LIB=local/lib/perl5"}, []string{"PERL5LIB=local/lib/perl5"}
	}
	p.tests("prove -l -r t")
	if name := s.first("app.psgi"); name != "" {
		p.artifacts, p.command = []string{"**/*"}, "plackup --host 127.0.0.1 --port $PORT "+name
	}
	return p, true
}

func makeProject(s sources) (p project, ok bool) {
	text := s.read("Makefile")
	if text == "" {
		return p, false
	}
	p.kind = "make"
	p.sawf("a Makefile")
	if regexp.MustCompile(`(?m)^test\s*:`).MatchString(text) {
		p.tests("make test")
		return p, true
	}
	if regexp.MustCompile(`(?m)^check\s*:`).MatchString(text) {
		p.tests("make check")
		return p, true
	}
	p.build = []string{"make"}
	return p, true
}

func staticProject(s sources) (p project, ok bool) {
	page := s.first("public/index.html", "index.html", "dist/index.html", "site/index.html", "docs/index.html")
	if page == "" {
		return p, false
	}
	p.kind = "static"
	p.sawf("static pages: %s", page)
	p.build = []string{"test -s " + page}
	p.command = "python3 -m http.server $PORT --bind 127.0.0.1"
	if dir := path.Dir(page); dir != "." {
		p.artifacts, p.command = []string{dir + "/**/*"}, p.command+" --directory "+dir
	} else {
		p.artifacts = []string{"**/*"}
	}
	return p, true
}

// dockerProject takes what a Dockerfile says for how the project is built and run,
// on the machine itself: that takes no container engine.
func dockerProject(s sources) (p project, ok bool) {
	text := s.read("Dockerfile")
	if text == "" {
		return p, false
	}
	p.kind = "Dockerfile"
	p.sawf("a Dockerfile, and nothing else that says how it is built")
	entry, arguments := "", ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.Join(strings.Fields(rest), " ")
		switch strings.ToUpper(word) {
		case "RUN":
			if regexp.MustCompile(`\b(apt-get|apt|apk|dnf|yum|adduser|useradd|groupadd)\b|--mount`).MatchString(rest) {
				p.build = append(p.build, "# Not here, but once on the server: "+rest)
				continue
			}
			p.build = append(p.build, rest)
		case "ENTRYPOINT":
			entry = rest
		case "CMD":
			arguments = rest
		}
	}
	p.command = dockerCommand(entry, arguments)
	if !slices.ContainsFunc(p.build, func(c string) bool { return !strings.HasPrefix(c, "#") }) {
		p.build = append(p.build, "# Put the command that tests it here.", "test -s Dockerfile")
	}
	p.network = "as docker build has it; remove it when nothing is downloaded"
	p.artifacts = []string{"**/*"}
	p.note(
		"there are no containers here: commands run on the server, with what is installed there. Read buildspec.yml, and deploy/*/compose.yaml if there is one")
	return p, true
}

// dockerCommand is what ENTRYPOINT and CMD run together, in either form.
func dockerCommand(entry, arguments string) string {
	var words []string
	for _, text := range []string{entry, arguments} {
		var list []string
		if json.Unmarshal([]byte(text), &list) != nil {
			if text == "" {
				continue
			}
			return shellCommand(text) // the form that a shell reads takes no arguments
		}
		words = append(words, list...)
	}
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, " |&;<>(){}*?`\"'\\$") {
			words[i] = "'" + strings.ReplaceAll(strings.ReplaceAll(w, "'", `'\''`), "$", "$$") + "'"
		}
	}
	return strings.Join(words, " ")
}
