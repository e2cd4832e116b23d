// Package terraform_test holds deploy/terraform against what the cluster needs, in three steps of rising cost:
//
//   - hcl_test.go, static_test.go: the configuration is parsed and its variables, locals and user data are evaluated
//     in this process. Always.
//   - mock_test.go: terraform validates it and runs its own tests (tests/*.tftest.hcl) with a provider that asks nobody.
//   - apply_test.go: terraform plans, applies and destroys for real, against an EC2 on loopback (ec2_test.go).
//
// The last two need terraform and the AWS provider. Debian has neither; go install refuses terraform for the replace
// directives in its go.mod, and the provider would have to be compiled for the better part of an hour. Where they cannot
// be had, those tests pass and say on standard error, and in the file that EVENTBUS_NOT_CHECKED names, what they did not
// check; with EVENTBUS_REQUIRE_TERRAFORM=1 they fail instead. .ci/run sets that where CI has terraform.
package terraform_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// terraform runs the tool on a copy of this directory, so that nothing it writes ends up here.
type terraform struct {
	root string
	env  []string
}

// newTerraform returns nil where terraform or its provider is not to be had; it has then said that unchecked was left out.
func newTerraform(t *testing.T, unchecked string) *terraform {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		notChecked(t, unchecked, "terraform is not in PATH")
		return nil
	}
	tf := &terraform{root: t.TempDir(), env: environment(t)}
	if err := os.CopyFS(tf.root, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}

	probe := filepath.Join(tf.root, "probe")
	if err := os.Mkdir(probe, 0o755); err != nil {
		t.Fatal(err)
	}
	versions := "terraform {\n  required_providers {\n    aws = { source = \"hashicorp/aws\" }\n  }\n}\n"
	if err := os.WriteFile(filepath.Join(probe, "main.tf"), []byte(versions), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := tf.try(t, "probe", "init", "-no-color", "-input=false"); err != nil {
		notChecked(t, unchecked, "the AWS provider cannot be had:\n"+out)
		return nil
	}
	return tf
}

// notChecked lets a test pass without its tool, loudly, or fails it where the tool is required.
func notChecked(t *testing.T, what, why string) {
	t.Helper()
	message := fmt.Sprintf("NOT CHECKED: %s: %s", what, why)
	if os.Getenv("EVENTBUS_REQUIRE_TERRAFORM") == "1" {
		t.Fatal(message)
	}
	fmt.Fprintln(os.Stderr, message)
	name := os.Getenv("EVENTBUS_NOT_CHECKED")
	if name == "" {
		return
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(file, message); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// environment is this process's own without what would change a run or reach a real account.
func environment(t *testing.T) []string {
	t.Helper()
	env := []string{"TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1"}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "AWS_") || (strings.HasPrefix(name, "TF_") && name != "TF_CLI_CONFIG_FILE" && name != "TF_PLUGIN_CACHE_DIR") {
			continue
		}
		env = append(env, pair)
	}
	if config := mirrorConfig(t); config != "" {
		env = append(env, "TF_CLI_CONFIG_FILE="+config) // the last one counts
	}
	return env
}

// mirrorConfig returns a configuration that installs providers from a directory of this machine, or "" where the machine
// has a configuration of its own or no such directory.
func mirrorConfig(t *testing.T) string {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{os.Getenv("TF_CLI_CONFIG_FILE"), filepath.Join(home, ".terraformrc")} {
		if _, err := os.Stat(config); config != "" && err == nil {
			return ""
		}
	}
	for _, above := range []string{"/opt/*", "/usr/share/*", "/usr/local/share/*", "/var/lib/*"} {
		found, err := filepath.Glob(above + "/*/hashicorp/aws/*/*_*/terraform-provider-aws*")
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			continue
		}
		mirror := found[0]
		for range 6 { // file, platform, version, name, namespace, host
			mirror = filepath.Dir(mirror)
		}
		config := filepath.Join(t.TempDir(), "terraform.rc")
		text := fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", mirror)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return config
	}
	return ""
}

// try runs terraform in a directory of the copy and returns what it printed, errors too.
func (tf *terraform) try(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "terraform", args...)
	cmd.Dir = filepath.Join(tf.root, dir)
	cmd.Env = tf.env
	// On an interrupt terraform stops its provider and lets go of its state.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	start := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("terraform %s in %s: %.1f s", strings.Join(args, " "), dir, time.Since(start).Seconds())
	if errors.Is(t.Context().Err(), context.Canceled) {
		t.Fatalf("interrupted: %s", out)
	}
	return string(bytes.TrimSpace(out)), err
}

// run is try for a command that has to succeed.
func (tf *terraform) run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tf.try(t, dir, args...)
	if err != nil {
		t.Fatalf("terraform %s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
	return out
}
