package builtin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ctbox/helpers/helper"
	"ctbox/internal/gen"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The documents and the man page list the helpers of the table.
func TestGeneratedDocs(t *testing.T) {
	gen.Section(t, "../../docs/helpers.md", "helpers", helpersTable())
	gen.Section(t, "../../docs/helpers.md", "rules", rulesTable())
	gen.Section(t, "../../docs/nfct.md", "helpers", objectsTable())
	gen.Section(t, "../../docs/man/nfct.8", "helpers", manList())
	var ours []string
	for _, h := range All() {
		if h.Ours {
			ours = append(ours, h.Name)
		}
	}
	gen.Section(t, "../../docs/differences.md", "our helpers", "* User-space helpers: "+gen.Names(ours)+".\n")
}

var (
	protocolNames = map[uint8]string{ctnetlink.ProtoTCP: "tcp", ctnetlink.ProtoUDP: "udp"}
	transports    = map[uint8]string{ctnetlink.ProtoTCP: "TCP", ctnetlink.ProtoUDP: "UDP"}
	familyNames   = map[uint8]string{nl.FamilyIPv4: "IPv4", nl.FamilyIPv6: "IPv6"}
)

// each joins the names of numbers.
func each(numbers []uint8, names map[uint8]string, between string) string {
	var words []string
	for _, n := range numbers {
		words = append(words, names[n])
	}
	return strings.Join(words, between)
}

func protocols(h *helper.Helper) string { return each(h.Protocols, protocolNames, ", ") }

func helpersTable() string {
	text := "| helper | protocols | usual port | NAT | reads | expects |\n| --- | --- | --- | --- | --- | --- |\n"
	for _, h := range All() {
		nat := ""
		if h.Doc.NAT {
			nat = "yes"
		}
		text += fmt.Sprintf("| `%s` | %s over %s | %d | %s | %s | %s |\n", h.Name,
			each(h.Protocols, transports, " and "), each(h.Families, familyNames, " and "),
			h.Doc.Port, nat, h.Doc.Reads, h.Doc.Expects)
	}
	return text
}

func rulesTable() string {
	text := "| helper | rule |\n| --- | --- |\n"
	for _, h := range All() {
		rule := h.Doc.Rule
		if rule == "" {
			rule = fmt.Sprintf("`-p %s --dport %d -j CT --helper %s`", protocolNames[h.Protocols[0]], h.Doc.Port, h.Name)
		}
		text += fmt.Sprintf("| `%s` | %s |\n", h.Name, rule)
	}
	return text
}

func objectsTable() string {
	text := "| name | protocol | private data (bytes) | expectations at most | their timeout (s) |\n|---|---|---|---|---|\n"
	for _, h := range All() {
		text += fmt.Sprintf("| `%s` | %s | %d | %d | %d |\n", h.Name, protocols(h), h.PrivateLen, h.ExpectMax, h.ExpectTimeout/time.Second)
	}
	return text
}

// manList is the list for a page in man(7) markup, a line for each helper.
func manList() string {
	var items []string
	for _, h := range All() {
		items = append(items, h.Name+" ("+protocols(h)+")")
	}
	return strings.Join(items, ",\n") + ".\n"
}
