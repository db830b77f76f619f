package manifests

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // typed_config names it
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

// A team copies the block for Envoy into its HTTP connection manager. Envoy refuses fields that
// it does not know, and so do its types, in the filter's configuration too.
func TestEnvoyBlockIsValid(t *testing.T) {
	block := regexp.MustCompile("(?s)```yaml\n(common_http_protocol_options:.*?)```")
	for _, page := range []string{"forward-auth.md", "zh/forward-auth.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		found := block.FindSubmatch(text)
		if found == nil {
			t.Fatalf("docs/%s has no block for Envoy", page)
		}
		json, err := yaml.YAMLToJSONStrict(found[1])
		if err != nil {
			t.Fatalf("docs/%s: %v", page, err)
		}
		var manager hcm.HttpConnectionManager
		if err := protojson.Unmarshal(json, &manager); err != nil {
			t.Fatalf("docs/%s: %v", page, err)
		}
		if len(manager.HttpFilters) != 1 {
			t.Fatalf("docs/%s: %d filters", page, len(manager.HttpFilters))
		}
		filter, err := manager.HttpFilters[0].GetTypedConfig().UnmarshalNew()
		if err != nil {
			t.Fatalf("docs/%s: %v", page, err)
		}
		if err := filter.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
			t.Errorf("docs/%s: %v", page, err)
		}
	}
}
