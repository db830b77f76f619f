// Package manifests checks the examples that a container platform reads, with the platform's
// own types. It is a separate module, so that the plugin does not depend on these types.
package manifests

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// stopping returns the time that a Caddyfile gives a gateway to stop after SIGTERM.
func stopping(t *testing.T, caddyfile string) (total time.Duration) {
	t.Helper()
	for _, option := range []string{"shutdown_delay", "grace_period"} {
		found := regexp.MustCompile(`(?m)^\s+` + option + ` (\S+)$`).FindStringSubmatch(caddyfile)
		if found == nil {
			t.Fatalf("no %s", option)
		}
		d, err := time.ParseDuration(found[1])
		if err != nil {
			t.Fatal(err)
		}
		total += d
	}
	return total
}

// A team starts the example with `docker compose up`. The file must be valid by compose's
// schema, start nothing without its secrets, and give the gateway the time that it needs to
// stop.
func TestComposeIsValid(t *testing.T) {
	dir := filepath.Join("..", "..", "examples", "docker")
	load := func(env ...string) error {
		options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yaml")}, cli.WithEnv(env))
		if err != nil {
			return err
		}
		project, err := options.LoadProject(context.Background())
		if err != nil {
			return err
		}
		gateway, api, db := project.Services["gateway"], project.Services["api"], project.Services["db"]
		caddyfile, err := os.ReadFile(filepath.Join(dir, "Caddyfile"))
		if err != nil {
			return err
		}
		if grace := time.Duration(*gateway.StopGracePeriod); grace <= stopping(t, string(caddyfile)) {
			t.Errorf("stop_grace_period %s", grace)
		}
		for name, s := range project.Services {
			if (len(s.Ports) > 0) != (name == "gateway") {
				t.Errorf("%s publishes %v", name, s.Ports)
			}
			if name != "db" && (!s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true")) {
				t.Errorf("%s may do too much", name)
			}
		}
		if _, ok := api.Networks["db"]; ok {
			t.Error("the API reaches the gateway's database")
		}
		if db.HealthCheck == nil || gateway.DependsOn["db"].Condition != "service_healthy" {
			t.Error("the gateway does not wait for its database")
		}
		for _, found := range regexp.MustCompile(`\{(?:env\.|\$)(WX_[A-Z_]+)`).FindAllStringSubmatch(string(caddyfile), -1) {
			if _, ok := gateway.Environment[found[1]]; !ok && found[1] != "WX_API" {
				t.Errorf("the Caddyfile reads %s, which the gateway does not get", found[1])
			}
		}
		return nil
	}
	env := []string{"WX_APPID=wx0123456789abcdef", "WX_SECRET=x", "WX_AUTH_SITE=api.example.com", "WX_AUTH_KEY=x", "POSTGRES_PASSWORD=x"}
	if err := load(env...); err != nil {
		t.Error(err)
	}
	for i, variable := range env {
		if err := load(slices.Delete(slices.Clone(env), i, i+1)...); err == nil {
			t.Errorf("it starts without %s", variable)
		}
	}
}

// A team applies the example to a cluster. Each object may have only fields that Kubernetes
// knows, the names must match each other, and a rollout must lose no request.
func TestKubernetesIsValid(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "kubernetes", "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var (
		config     core.ConfigMap
		deployment apps.Deployment
		service    core.Service
		budget     policy.PodDisruptionBudget
	)
	objects := []any{&config, &deployment, &service, &budget}
	documents := strings.Split(string(text), "\n---\n")
	if len(documents) != len(objects) {
		t.Fatalf("%d objects", len(documents))
	}
	for i, document := range documents {
		if err := yaml.UnmarshalStrict([]byte(document), objects[i]); err != nil {
			t.Fatal(err)
		}
	}
	for got, want := range map[string]string{
		config.Kind + config.APIVersion: "ConfigMapv1", deployment.Kind + deployment.APIVersion: "Deploymentapps/v1",
		service.Kind + service.APIVersion: "Servicev1", budget.Kind + budget.APIVersion: "PodDisruptionBudgetpolicy/v1",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	labels := deployment.Spec.Template.Labels
	for name, selector := range map[string]map[string]string{
		"the Deployment": deployment.Spec.Selector.MatchLabels, "the Service": service.Spec.Selector, "the budget": budget.Spec.Selector.MatchLabels,
	} {
		if len(selector) != 1 || labels["app"] != selector["app"] {
			t.Errorf("%s selects %v, the pods have %v", name, selector, labels)
		}
	}
	if min := budget.Spec.MinAvailable.IntValue(); min < 1 || int32(min) >= *deployment.Spec.Replicas {
		t.Errorf("of %d replicas %d have to be there", *deployment.Spec.Replicas, min)
	}
	pod := deployment.Spec.Template.Spec
	gateway, api := pod.Containers[0], pod.Containers[1]
	if path := gateway.LivenessProbe.HTTPGet.Path; path != "/auth/wx/health/live" {
		t.Errorf("liveness asks %s", path)
	}
	if path := gateway.ReadinessProbe.HTTPGet.Path; path != "/auth/wx/health/ready" {
		t.Errorf("readiness asks %s", path)
	}
	for _, port := range []string{gateway.LivenessProbe.HTTPGet.Port.StrVal, gateway.ReadinessProbe.HTTPGet.Port.StrVal, service.Spec.Ports[0].TargetPort.StrVal} {
		if port != gateway.Ports[0].Name {
			t.Errorf("port %q is not the gateway's", port)
		}
	}
	s := gateway.SecurityContext
	if !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || *s.RunAsUser != 65532 || s.Capabilities.Drop[0] != "ALL" || !*pod.SecurityContext.RunAsNonRoot {
		t.Error("the gateway may do too much")
	}
	var volumes []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range gateway.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
	runs := stopping(t, config.Data["Caddyfile"])
	sleep := time.Duration(api.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; sleep <= runs || grace <= sleep {
		t.Errorf("the gateway stops within %s, the API sleeps %s, the kubelet waits %s", runs, sleep, grace)
	}
}
