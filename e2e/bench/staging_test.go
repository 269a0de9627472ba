package bench

import (
	"fmt"
	"testing"

	"github.com/headgate-cd/headgate/gitd/engine/enginetest"
)

// containerCompose runs a web server of an image, which says of what release it is.
const containerCompose = `services:
  web:
    image: ` + enginetest.Image + `
    init: true
    command:
      - /bin/sh
      - -c
      - mkdir -p /tmp/www; echo release $HEADGATE_RELEASE, >/tmp/www/index.html; exec httpd -f -p $PORT -h /tmp/www
    ports: ["127.0.0.1:0:8080"]
    x-headgate: {health: /}
`

// BenchmarkStagingContainer: from "landed" in the push to the new release's answer at
// staging's address, for a service of one container, with a real engine.
func BenchmarkStagingContainer(b *testing.B) {
	enginetest.Benchmark(b, func(b *testing.B, d *enginetest.Daemon) {
		w := newHarness(b)
		files := buildspec("true")
		files["buildspec.yml"] += "artifacts:\n  files: [words.txt]\n"
		files["headgate.yaml"] = "environments:\n  staging: {target: services, path: deploy/staging}\n"
		files["deploy/staging/compose.yaml"] = containerCompose
		w.environment = []string{"DOCKER_HOST=" + d.Host}
		w.serve(b, files)
		c := w.headgate(b, "ours")
		c.push(b, "HEAD:main")
		url := w.stagingURL(b)
		var landed sample
		for i := range *runs/2 + warm {
			c.commit(b, i)
			p := c.push(b, "HEAD:main")
			answered := waitFor(b, url, fmt.Sprintf("release %d,", i+2))
			if i >= warm {
				landed = append(landed, answered.Sub(p.at(b, "success:")))
			}
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ms(landed.p(50)), "p50-ms")
		b.ReportMetric(ms(landed.p(95)), "p95-ms,goal-3000")
	})
}
