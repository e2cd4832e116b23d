package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// process is one whose cost is measured, as /proc tells it.
type process struct {
	name string
	pid  int
}

// parseProcesses reads name=pid.
func parseProcesses(pids []string) ([]process, error) {
	var out []process
	for _, s := range pids {
		name, number, ok := strings.Cut(s, "=")
		pid, err := strconv.Atoi(number)
		if !ok || name == "" || err != nil || pid <= 0 {
			return nil, fmt.Errorf("%q is not name=pid", s)
		}
		out = append(out, process{name, pid})
	}
	return out, nil
}

// ticks is in which part of a second /proc counts CPU time: Linux shows 1/100 to
// all programs, whatever the kernel's own.
const ticks = 100

// cpu is the time that the process has used, with the kernel's on its behalf.
func (p process) cpu() (time.Duration, error) {
	if d, ok := p.clock(); ok {
		return d, nil // short measurements need more than /proc's hundredths
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, fmt.Errorf("process %s: %w", p.name, err)
	}
	// The second field is the program's name in brackets and may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const user, system = 11, 12 // utime and stime, counted from the third field
	if len(fields) <= system {
		return 0, fmt.Errorf("process %s: unknown form of /proc/%d/stat", p.name, p.pid)
	}
	sum := 0
	for _, f := range [][]byte{fields[user], fields[system]} {
		n, err := strconv.Atoi(string(f))
		if err != nil {
			return 0, fmt.Errorf("process %s: /proc/%d/stat: %w", p.name, p.pid, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// memory is its part of the physical memory in bytes: what it shares is divided
// among those that share it. Where that may not be read, it is all resident memory.
func (p process) memory() (int64, error) {
	if n, err := p.kilobytes("smaps_rollup", "Pss:"); err == nil {
		return n, nil
	}
	return p.kilobytes("status", "VmRSS:")
}

func (p process) kilobytes(file, name string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/%s", p.pid, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("process %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %s: %s has no %s", p.name, path, name)
}

// usage is CPU time by the processes' names; several may share one.
type usage map[string]time.Duration

func cpuOf(all []process) (usage, error) {
	u := usage{}
	for _, p := range all {
		d, err := p.cpu()
		if err != nil {
			return nil, err
		}
		u[p.name] += d
	}
	return u, nil
}

// since is what was used after before.
func (u usage) since(before usage) usage {
	d := usage{}
	for name, v := range u {
		d[name] = v - before[name]
	}
	return d
}

func memoryOf(all []process) (map[string]int64, error) {
	m := map[string]int64{}
	for _, p := range all {
		n, err := p.memory()
		if err != nil {
			return nil, err
		}
		m[p.name] += n
	}
	return m, nil
}
