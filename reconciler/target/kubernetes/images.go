package kubernetes

import "strings"

// Images writes the images of a release as what they are: where a container's image is the name of one of them alone,
// as in "image: web", it becomes that of the registry, by its digest. digests are by name.
func Images(content map[string]any, registry, repository string, digests map[string]string) {
	for key, value := range content {
		if key == "containers" || key == "initContainers" || key == "ephemeralContainers" {
			list, _ := value.([]any)
			for _, c := range list {
				container, _ := c.(map[string]any)
				name, _ := container["image"].(string)
				if digest, ok := digests[name]; ok {
					container["image"] = registry + "/" + repository + "/" + strings.ToLower(name) + "@" + digest
				}
			}
		}
		switch value := value.(type) {
		case map[string]any:
			Images(value, registry, repository, digests)
		case []any:
			for _, v := range value {
				if m, ok := v.(map[string]any); ok {
					Images(m, registry, repository, digests)
				}
			}
		}
	}
}
