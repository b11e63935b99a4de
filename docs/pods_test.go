package docs_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// Pods of the pages are run on a machine, which is the node, by crun, a container runtime
// that needs no daemon. What a kubelet and containerd make of a Pod is containerRules.

func (b *block) isPod() bool {
	return b.language == "yaml" && strings.Contains(b.text, "\nkind: Pod\n")
}

// pod has the fields of a Pod that the pages use. An unknown one is an error, lest it
// does nothing here.
type pod struct {
	APIVersion string
	Kind       string
	Metadata   struct{ Name, Namespace string }
	Spec       struct {
		HostNetwork    bool
		RestartPolicy  string
		InitContainers []container
		Containers     []container
		Volumes        []struct {
			Name     string
			HostPath struct{ Path, Type string }
		}
	}
}

type container struct {
	Name            string
	Image           string
	Args            []string
	SecurityContext struct {
		RunAsNonRoot             bool
		RunAsUser                int
		AllowPrivilegeEscalation *bool
		ReadOnlyRootFilesystem   bool
		Capabilities             struct{ Add, Drop []string }
	}
	VolumeMounts []struct{ Name, MountPath string }
}

// The capabilities of a container that neither adds nor drops any.
var usualCapabilities = []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
	"NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}

type object = map[string]any

// containerRules is the OCI runtime specification that containerd's CRI plugin writes for
// the container: the capabilities are bounding, permitted and effective for every user,
// and allowPrivilegeEscalation: false is no_new_privs.
func containerRules(t *testing.T, p *pod, c *container) object {
	t.Helper()
	security := c.SecurityContext
	if security.RunAsNonRoot && security.RunAsUser == 0 {
		t.Fatalf("%s: runAsNonRoot as root", c.Name)
	}
	capabilities := usualCapabilities
	if slices.Contains(security.Capabilities.Drop, "ALL") {
		capabilities = nil
	}
	var sets []string
	for _, name := range slices.Concat(capabilities, security.Capabilities.Add) {
		sets = append(sets, "CAP_"+name)
	}
	mounts := []object{
		{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755"}},
	}
	for _, m := range c.VolumeMounts {
		at := slices.IndexFunc(p.Spec.Volumes, func(v struct {
			Name     string
			HostPath struct{ Path, Type string }
		}) bool {
			return v.Name == m.Name
		})
		if at < 0 {
			t.Fatalf("%s: no volume %q", c.Name, m.Name)
		}
		mounts = append(mounts, object{"destination": m.MountPath, "type": "bind", "source": p.Spec.Volumes[at].HostPath.Path,
			"options": []string{"rbind", "rw"}})
	}
	namespaces := []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}}
	if !p.Spec.HostNetwork {
		namespaces = append(namespaces, object{"type": "network"})
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": security.RunAsUser, "gid": security.RunAsUser}, "cwd": "/", "env": []string{"PATH=/usr/sbin"},
			"args":            append([]string{"/usr/sbin/ctbox"}, c.Args...),
			"capabilities":    object{"bounding": sets, "permitted": sets, "effective": sets},
			"noNewPrivileges": security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation,
		},
		"root":   object{"path": image, "readonly": security.ReadOnlyRootFilesystem},
		"mounts": mounts,
		"linux":  object{"namespaces": namespaces},
	}
}

// image is where the node has the unpacked image: what scripts/packaging puts into it.
const image = "/var/lib/image"

// unpackImage makes it, with the file capability.
func (m *machine) unpackImage() {
	m.t.Helper()
	if out, status := m.run("mkdir -p " + image + "/usr/sbin " + image + "/proc " + image + "/dev " + image + "/node && cd " + image + `/usr/sbin &&
		cp $(readlink -f $(command -v ctbox)) ctbox && for name in $(./ctbox --list); do ln -s ctbox $name; done
		mount -t cgroup2 none /sys/fs/cgroup`); status != 0 {
		m.t.Fatalf("%s", out)
	}
	netAdmin := []byte{3: 2, 5: 1 << (unix.CAP_NET_ADMIN - 8), 19: 0} // as scripts/packaging has it
	if err := unix.Setxattr(m.root+image+"/usr/sbin/ctbox", "security.capability", netAdmin, 0); err != nil {
		m.t.Fatal(err)
	}
}

// crun returns the command that runs the container in the foreground.
func (m *machine) crun(name string, rules object) string {
	m.t.Helper()
	bundle := path.Join("/run/bundles", name)
	config, err := json.Marshal(rules)
	if err != nil {
		m.t.Fatal(err)
	}
	if out, status := m.run("mkdir -p " + bundle); status != 0 {
		m.t.Fatal(out)
	}
	m.write(path.Join(bundle, "config.json"), string(config))
	return fmt.Sprintf("crun --cgroup-manager=disabled run --bundle %s %s", bundle, name)
}

func readPod(t *testing.T, b *block) *pod {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "python3", "-c", "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)")
	cmd.Stdin = strings.NewReader(b.text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("line %d: %v", b.line, err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	d.DisallowUnknownFields()
	p := new(pod)
	if err := d.Decode(p); err != nil {
		t.Fatalf("line %d: %v", b.line, err)
	}
	if p.APIVersion != "v1" || p.Kind != "Pod" || p.Metadata.Name == "" {
		t.Fatalf("line %d: %+v", b.line, p)
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if !strings.HasPrefix(c.Image, "localhost/ctbox:") {
			t.Errorf("line %d: image %q", b.line, c.Image)
		}
	}
	return p
}

func TestPods(t *testing.T) {
	_, all := pages(t)
	pods := map[string]*pod{}
	for _, p := range all {
		for i := range p.blocks {
			if b := &p.blocks[i]; b.isPod() {
				found := readPod(t, b)
				pods[found.Metadata.Name] = found
			}
		}
	}
	events, user := pods["ctbox"], pods["ctbox-user"]
	if len(pods) != 2 || events == nil || user == nil {
		t.Fatalf("%d pods in the pages, want ctbox and ctbox-user", len(pods))
	}
	node := (&network{t: t}).machine(firstMachine)
	node.unpackImage()
	const sorry = "sorry, you must be root or get CAP_NET_ADMIN capability to do this"

	t.Run("install", func(t *testing.T) {
		install := containerRules(t, events, &events.Spec.InitContainers[0])
		script := "rm -f /usr/local/bin/ctbox\n"
		for _, name := range []string{"first", "second"} {
			script += node.crun(name, install) + "\n"
		}
		script += "/usr/local/bin/conntrack -C && ls /usr/local/bin/nfct"
		if out, status := node.run("set -e\n" + script); status != 0 || out != "0\n/usr/local/bin/nfct\n" {
			t.Errorf("status %d: %s", status, out)
		}
		if n, err := unix.Listxattr(filepath.Join(node.root, "/usr/local/bin/ctbox"), nil); err != nil || n != 0 {
			t.Errorf("the copy has extended attributes: %d bytes (%v)", n, err)
		}
	})
	t.Run("events", func(t *testing.T) {
		run := node.crun("events", containerRules(t, events, &events.Spec.Containers[0]))
		if out, status := node.run(run + " >/run/events.log 2>&1 & echo started"); status != 0 {
			t.Fatal(out)
		}
		const add = "conntrack -I -t 60 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 7 --dport 53; conntrack -D -p udp --sport 7; cat /run/events.log"
		netnstest.Eventually(t, 20*time.Second, "the pod prints the node's events", func() bool {
			out, _ := node.run(add)
			return strings.Contains(out, `"event":"new"`) && strings.Contains(out, `"sport":7`)
		})
		if out, status := node.run("crun kill events TERM && until ! crun state events >/dev/null 2>&1; do :; done"); status != 0 {
			t.Error(out)
		}
		// With fewer capabilities, or its own network, it would see nothing of the node.
		events.Spec.Containers[0].SecurityContext.Capabilities.Add = nil
		if out, status := node.run(node.crun("powerless", containerRules(t, events, &events.Spec.Containers[0]))); status != 1 || !strings.Contains(out, sorry) {
			t.Errorf("without NET_ADMIN: status %d: %s", status, out)
		}
	})
	t.Run("user", func(t *testing.T) {
		const flow = "-t 600 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 8 --dport 53"
		if out, status := node.run("conntrack -I " + flow); status != 0 {
			t.Fatal(out)
		}
		c := &user.Spec.Containers[0]
		if c.SecurityContext.RunAsUser == 0 || !c.SecurityContext.RunAsNonRoot {
			t.Fatal("the pod is root's")
		}
		list := func(name string, change func(process object)) {
			t.Helper()
			rules := containerRules(t, user, c)
			change(rules["process"].(object))
			out, status := node.run(node.crun(name, rules))
			works := status == 0 && strings.Contains(out, "sport=8") && strings.Contains(out, "1 flow entries have been shown")
			if fails := status == 1 && strings.Contains(out, sorry); works == strings.HasPrefix(name, "no-") || works == fails {
				t.Errorf("%s: status %d: %s", name, status, out)
			}
		}
		docker := func(process object) { // no set for other users than root but the bounding one
			delete(process["capabilities"].(object), "permitted")
			delete(process["capabilities"].(object), "effective")
		}
		list("page", func(object) {})
		list("docker", docker)
		list("unprivileged", func(process object) { process["noNewPrivileges"] = true })
		list("no-docker-unprivileged", func(process object) {
			docker(process)
			process["noNewPrivileges"] = true
		})
		list("no-capability", func(process object) { process["capabilities"] = object{} })
	})
}
