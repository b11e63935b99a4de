package main

// drawPair draws the pair of firewalls of the quick start.
func drawPair(string) (*svg, error) {
	s := newSVG(840, 330, "Two firewalls between clients and servers: conntrackd replicates connections over the dedicated link, "+
		"keepalived moves the virtual addresses")
	const lan, wan, x, w = 190.0, 650.0, 295.0, 250.0
	node := func(class string, y float64, name, role, inside, outside string) {
		s.rect(class, x, y, w, 96, 8)
		s.text("h", x+16, y+24, name)
		s.text("m end", x+w-16, y+24, role)
		s.text("", x+16, y+48, "conntrackd")
		s.text("m end", x+w-16, y+48, "replicates flows")
		s.text("", x+16, y+68, "keepalived")
		s.text("m end", x+w-16, y+68, "moves addresses")
		s.text("m", x+16, y+87, "kernel: nf_conntrack, nf_tables")
		line := "l w"
		if role == "active" {
			line = "la"
		}
		s.path(line, lan, y+48, x, y+48)
		s.path(line, x+w, y+48, wan, y+48)
		s.text("m", lan+10, y+41, inside)
		s.text("m end", wan-10, y+41, outside)
	}
	// the networks
	s.path("l w", lan, 60, lan, 270)
	s.path("l w", wan, 60, wan, 270)
	s.text("m mid", lan, 292, "inside 192.0.2.0/24")
	s.text("m mid", lan, 309, "virtual: 192.0.2.1")
	s.text("m mid", wan, 292, "outside 198.51.100.0/24")
	s.text("m mid", wan, 309, "virtual: 198.51.100.1")
	s.path("l w", 120, 165, lan, 165)
	s.path("l w", wan, 165, 720, 165)
	s.rect("box", 20, 140, 100, 50, 8)
	s.text("h mid", 70, 162, "clients")
	s.text("m mid", 70, 179, "192.0.2.10")
	s.rect("box", 720, 140, 104, 50, 8)
	s.text("h mid", 772, 162, "servers")
	s.text("m mid", 772, 179, "198.51.100.10")
	node("abox", 24, "fw1", "active", "192.0.2.11", "198.51.100.11")
	node("box", 204, "fw2", "backup", "192.0.2.12", "198.51.100.12")
	// the dedicated link
	s.arrow("la", 350, 120, 350, 204)
	s.text("h", 364, 155, "dedicated link")
	s.text("m", 364, 173, "203.0.113.0/30, UDP 3780")
	return s, nil
}

// drawFlow draws the way of a flow from one kernel to the other.
func drawFlow(string) (*svg, error) {
	s := newSVG(760, 330, "The way of a flow: the kernel's event fills the internal cache, the link carries it to the peer's "+
		"external cache, and a commit puts it into the peer's kernel at a takeover")
	box := func(class string, x, y, w float64, title string, lines ...string) {
		s.rect(class, x, y, w, float64(32+17*len(lines)), 7)
		s.text("h", x+12, y+21, title)
		for i, l := range lines {
			s.text("m", x+12, y+39+float64(17*i), l)
		}
	}
	s.text("h", 20, 28, "fw1")
	s.text("m", 52, 28, "active")
	s.text("h end", 740, 28, "fw2")
	s.text("m end", 708, 28, "backup")
	s.path("l dash", 380, 14, 380, 96)
	s.path("l dash", 380, 150, 380, 316)

	box("abox", 20, 50, 200, "internal cache", "what this node's kernel has")
	box("abox", 540, 50, 200, "external cache", "what the peer's kernel has")
	s.arrow("la", 220, 74, 540, 74)
	s.text("h mid", 380, 112, "3  link")
	s.text("m mid", 380, 128, "UDP, multicast or TCP; FT-FW resends what is lost")

	box("box", 20, 220, 200, "kernel: conntrack table", "packets make, change and", "end flows; NAT")
	box("box", 540, 220, 200, "kernel: conntrack table", "goes on with the same flows", "after a takeover")
	s.arrow("la", 120, 220, 120, 99)
	s.text("h", 132, 156, "1  event")
	s.text("m", 132, 172, "new, changed, ended")
	s.text("h", 132, 198, "2  cache and send queue")
	s.arrow("la dash", 640, 99, 640, 220)
	s.text("h end", 628, 156, "4  commit")
	s.text("m end", 628, 172, "conntrackd -c")
	s.text("m end", 628, 188, "at a takeover")

	s.text("m", 20, 312, "conntrackd -i shows the internal cache")
	s.text("m end", 740, 312, "conntrackd -e shows the external cache")
	return s, nil
}
