package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const slotCount = 16384

// clusterNode is one line of CLUSTER NODES.
type clusterNode struct {
	id       string
	server   *Server
	flags    []string
	masterID string
	linked   bool
	slots    [][2]int // first and last of each range
}

// view is the cluster as one node sees it.
type view []clusterNode

func (n clusterNode) has(flag string) bool { return slices.Contains(n.flags, flag) }

// viewOf asks a node how it sees the cluster.
func (c *Cluster) viewOf(ctx context.Context, node *Server) (view, error) {
	text, err := node.client.ClusterNodes(ctx).Result()
	if err != nil {
		return nil, err
	}
	var v view
	for line := range strings.Lines(text) {
		// id ip:port@bus flags master ping pong epoch link slot slot …
		fields := strings.Fields(line)
		if len(fields) < 8 {
			return nil, fmt.Errorf("CLUSTER NODES of %s has the line %q", node.Addr(), line)
		}
		n := clusterNode{id: fields[0], flags: strings.Split(fields[2], ","), masterID: fields[3], linked: fields[7] == "connected"}
		addr, _, _ := strings.Cut(fields[1], "@")
		if n.server, err = byPort(c.nodes, addr[strings.LastIndexByte(addr, ':')+1:]); err != nil {
			return nil, err
		}
		if n.slots, err = parseSlots(fields[8:]); err != nil {
			return nil, err
		}
		v = append(v, n)
	}
	return v, nil
}

func parseSlots(words []string) ([][2]int, error) {
	var slots [][2]int
	for _, word := range words {
		if strings.HasPrefix(word, "[") { // a slot on its way; its owner has it among the others
			continue
		}
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			return nil, err
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			return nil, err
		}
		slots = append(slots, [2]int{from, to})
	}
	return slots, nil
}

// owners is the master of each slot, nil where there is none.
func (v view) owners() []*Server {
	owners := make([]*Server, slotCount)
	for _, n := range v {
		for _, r := range n.slots {
			for slot := r[0]; slot <= r[1]; slot++ {
				owners[slot] = n.server
			}
		}
	}
	return owners
}

// of is a server's own line.
func (v view) of(s *Server) (clusterNode, error) {
	for _, n := range v {
		if n.server == s {
			return n, nil
		}
	}
	return clusterNode{}, fmt.Errorf("%s is not known", s.Addr())
}

// ask calls op for one node that is up after the other until one succeeds.
func (c *Cluster) ask(op func(node *Server) error) error {
	err := errors.New("no node is up")
	for _, node := range responsive(c.nodes) {
		if err = op(node); err == nil {
			break
		}
	}
	return err
}

// anyView is the cluster as the first node that answers sees it.
func (c *Cluster) anyView(ctx context.Context) (v view, err error) {
	err = c.ask(func(node *Server) (err error) {
		v, err = c.viewOf(ctx, node)
		return err
	})
	return v, err
}

func (c *Cluster) ownerOf(ctx context.Context, slot int) (*Server, error) {
	v, err := c.anyView(ctx)
	if err != nil {
		return nil, err
	}
	if owner := v.owners()[slot]; owner != nil {
		return owner, nil
	}
	return nil, fmt.Errorf("nobody owns slot %d", slot)
}

func (c *Cluster) replicasOf(ctx context.Context, master *Server) ([]*Server, error) {
	v, err := c.anyView(ctx)
	if err != nil {
		return nil, err
	}
	m, err := v.of(master)
	if err != nil {
		return nil, err
	}
	var replicas []*Server
	for _, n := range v {
		if n.masterID == m.id {
			replicas = append(replicas, n.server)
		}
	}
	return replicas, nil
}

// settled is the owner of each slot if all nodes agree on them and on who follows whom, see each other and serve; else an
// error that says who does not. Only nodes that a test has left alone count, and except never does.
func (c *Cluster) settled(ctx context.Context, except *Server) ([]*Server, error) {
	up := slices.DeleteFunc(responsive(c.nodes), func(s *Server) bool { return s == except })
	if len(up) == 0 {
		return nil, errors.New("no node is up")
	}
	var owners, masters []*Server
	for i, node := range up {
		v, err := c.viewOf(ctx, node)
		if err == nil {
			err = v.seesAll(up)
		}
		if err == nil {
			err = serves(ctx, node, v)
		}
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", node.Addr(), err)
		}
		seenOwners, seenMasters := v.owners(), v.masters(up)
		if i > 0 && (!slices.Equal(owners, seenOwners) || !slices.Equal(masters, seenMasters)) {
			return nil, fmt.Errorf("%s and %s disagree on owners or masters", up[0].Addr(), node.Addr())
		}
		owners, masters = seenOwners, seenMasters
	}
	if slot := slices.Index(owners, nil); slot >= 0 {
		return nil, fmt.Errorf("nobody owns slot %d", slot)
	}
	return owners, nil
}

// masters is for each of these servers the one that it follows, nil for a master.
func (v view) masters(servers []*Server) []*Server {
	masters := make([]*Server, len(servers))
	for _, n := range v {
		i := slices.Index(servers, n.server)
		m := slices.IndexFunc(v, func(m clusterNode) bool { return m.id == n.masterID })
		if i >= 0 && m >= 0 {
			masters[i] = v[m].server
		}
	}
	return masters
}

// seesAll fails unless the view has all these nodes, connected and healthy.
func (v view) seesAll(nodes []*Server) error {
	for _, s := range nodes {
		n, err := v.of(s)
		if err != nil {
			return err
		}
		for _, bad := range []string{"fail", "fail?", "handshake", "noaddr"} {
			if n.has(bad) {
				return fmt.Errorf("%s is marked %s", s.Addr(), bad)
			}
		}
		if !n.linked && !n.has("myself") {
			return fmt.Errorf("%s is not connected", s.Addr())
		}
	}
	return nil
}

// serves fails unless the node says that the cluster is up, and if it is a replica, is in sync with the master that it
// names in its view.
func serves(ctx context.Context, node *Server, v view) error {
	info, err := node.client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	if state := infoField(info, "cluster_state"); state != "ok" {
		return fmt.Errorf("cluster_state is %s", state)
	}
	self, err := v.of(node)
	if err != nil {
		return err
	}
	if !self.has("slave") {
		return hasRole(ctx, node, "master", nil)
	}
	for _, n := range v {
		if n.id == self.masterID {
			return hasRole(ctx, node, "slave", n.server)
		}
	}
	return fmt.Errorf("its master %s is not known", self.masterID)
}
