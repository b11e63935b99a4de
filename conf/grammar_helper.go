package conf

import (
	"slices"
	"strconv"
	"time"

	"ctbox/helpers/builtin"
	"ctbox/nl"
)

var helperClauses = []clause{
	{
		name:  "Setup",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Helper.Setup }},
		doc:   "Create the kernel's helper objects. Otherwise they must have been created with `nfct helper add`.",
	},
	{
		name: "Type",
		doc: "A helper by its name, family and layer 4 protocol. Queue and policies given in Helper itself apply to the " +
			"Type that follows.",
		value: &group{
			block: &block{
				title:   "Type",
				syntax:  "NAME inet|inet6 tcp|udp { ... }",
				clauses: typeClauses,
			},
			instances: true,
			enter:     enterType,
			leave:     leaveType,
			each: func(s scope) []instance {
				var types []instance
				for _, t := range s.cfg.Helper.Types {
					types = append(types, instance{"Type " + t.Name + " " + t.family() + " " + t.transport(),
						scope{cfg: s.cfg, helper: t}, t})
				}
				return types
			},
			always: true,
		},
	},
	stray(queueNum), stray(queueLen), stray(policy),
}

// stray returns a clause of Type for the Helper block itself, where conntrack-tools' grammar
// allows it, too.
func stray(c clause) clause {
	c.unless = func(scope) bool { return true }
	c.notice = c.name + " stands outside of a Type and counts for the next one"
	c.value = &forNext{c.value}
	c.doc = "For the Type that follows."
	return c
}

// forNext is a value of the next Type.
type forNext struct{ value }

func (v *forNext) reset(scope) {}

func (v *forNext) read(p *parser, c *clause, s scope, at Pos) *Error {
	if p.loose == nil {
		p.loose = new(HelperType)
	}
	s.helper = p.loose
	return v.value.read(p, c, s, at)
}

var typeClauses = []clause{queueNum, queueLen, policy}

var (
	queueNum = clause{
		name:  "QueueNum",
		value: &first[uint16]{number[uint16]{at: func(s scope) *uint16 { return &s.helper.QueueNum }, max: 65535}},
		doc:   "The NFQUEUE number, for this program alone. The first one given counts.",
	}
	queueLen = clause{
		name:  "QueueLen",
		value: &first[uint32]{number[uint32]{at: func(s scope) *uint32 { return &s.helper.QueueLen }, max: maxInt}},
		doc:   "The largest number of packets in the queue; the kernel's default is 1024. The first one given counts.",
	}
	policy = clause{
		name: "Policy",
		value: &group{
			block: &block{
				title:  "Policy",
				syntax: "NAME { ... }",
				clauses: []clause{
					{
						name:  "ExpectMax",
						value: &number[uint32]{at: func(s scope) *uint32 { return &s.policy.max }, max: 255, zero: 255},
						doc:   "The largest number of expectations of a flow at a time; 0 is 255. The default is the helper's.",
					},
					{
						name:  "ExpectTimeout",
						value: &seconds{at: func(s scope) *time.Duration { return &s.policy.timeout }},
						doc:   "Lifetime of an expectation. The default, also for 0, is the helper's.",
					},
				},
			},
			instances: true,
			enter:     enterPolicy,
			leave:     leavePolicy,
			each: func(s scope) []instance {
				var policies []instance
				for i := range s.helper.Policies {
					pol := &s.helper.Policies[i]
					draft := &policyDraft{max: pol.ExpectMax, timeout: pol.ExpectTimeout}
					policies = append(policies, instance{"Policy " + pol.Name, scope{cfg: s.cfg, policy: draft}, s.helper})
				}
				return policies
			},
		},
		doc: "Limits of the helper's expectations. A helper has one class of them, with its own name. The first Policy " +
			"of a Type counts.",
	}
)

// first is a number of which the first one given counts.
type first[T uint16 | uint32] struct{ number[T] }

func (v *first[T]) read(p *parser, c *clause, s scope, at Pos) *Error {
	before, twice := p.cfg.pos[v.at(s)]
	if !twice {
		return v.number.read(p, c, s, at)
	}
	_, err := p.number(v.min, v.max, v.tooFar)
	p.warn(at, OnCheck, c.name+" is given again, but that in line "+strconv.Itoa(before.Line)+" counts")
	return err
}

func (t *HelperType) family() string {
	if t.IPv6 {
		return "inet6"
	}
	return "inet"
}

// layer3 is the family with the number that the kernel has for it.
func (t *HelperType) layer3() uint8 {
	if t.IPv6 {
		return nl.FamilyIPv6
	}
	return nl.FamilyIPv4
}

func (t *HelperType) transport() string {
	if t.Protocol == protocolUDP {
		return "udp"
	}
	return "tcp"
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

func enterType(p *parser, s scope, at Pos) (scope, *Error) {
	t := p.loose
	if p.loose = nil; t == nil {
		t = new(HelperType)
	}
	const helper, layer3, layer4 = "the name of a helper", "inet or inet6", "tcp or udp"
	name, err := p.word(helper, builtinHelperNames()...)
	switch {
	case err != nil:
		return s, err
	case !p.isName(name.text):
		return s, p.mismatch(name, helper)
	}
	l3, err := p.word(layer3, "inet", "inet6")
	if err != nil {
		return s, err
	}
	l4, err := p.word(layer4, "tcp", "udp")
	if err != nil {
		return s, err
	}
	switch l3.text {
	case "inet":
	case "inet6":
		t.IPv6 = true
	default:
		if p.isName(l3.text) {
			return s, &Error{Pos: l3.pos, Text: "unknown layer 3 protocol"}
		}
		return s, p.mismatch(l3, layer3, "inet", "inet6")
	}
	switch l4.text {
	case "tcp":
		t.Protocol = protocolTCP
	case "udp":
		t.Protocol = protocolUDP
	default:
		if p.isName(l4.text) {
			return s, &Error{Pos: l4.pos, Text: "unknown layer 4 protocol"}
		}
		return s, p.mismatch(l4, layer4, "tcp", "udp")
	}
	t.Name = name.text
	if _, ok := p.shared[t.object()]; !ok {
		policies := slices.Clone(p.ext.Helper(t.Name, t.Protocol))
		if len(policies) == 0 {
			return s, &Error{Pos: name.pos, Text: "Unknown `" + abbreviated(t.Name) + "' helper"}
		}
		p.shared[t.object()] = policies
	}
	if h := builtin.Find(t.Name, t.Protocol); h != nil && !h.Supports(t.layer3()) {
		other := HelperType{IPv6: !t.IPv6}
		p.warnings = append(p.warnings, Warning{Pos: l3.pos, When: AtStart, Ours: true, Text: "Type " + t.Name + " " + t.family() + " " + t.transport() +
			" never expects anything: the helper reads " + other.family() + " only"})
	}
	p.cfg.pos[t] = at
	s.helper = t
	s.cfg.Helper.Types = append(s.cfg.Helper.Types, t)
	return s, nil
}

// helperObject is a helper for one layer 4 protocol, in either family. Policies belong to it.
type helperObject struct {
	name     string
	protocol uint8
}

func (t *HelperType) object() helperObject { return helperObject{t.Name, t.Protocol} }

// leaveType applies the policies of the Type to all Types of the same helperObject.
func leaveType(p *parser, s scope, at Pos) *Error {
	drafts := p.policies
	p.policies = nil
	policies := p.shared[s.helper.object()]
	for _, d := range drafts {
		i := slices.IndexFunc(policies, func(pol HelperPolicy) bool { return pol.Name == d.name })
		if i < 0 {
			return &Error{Pos: d.at, Text: "Unknown policy `" + abbreviated(d.name) + "' in helper configuration"}
		}
		if d.max != 0 {
			policies[i].ExpectMax = d.max
		}
		if d.timeout != 0 {
			policies[i].ExpectTimeout = d.timeout
		}
	}
	return nil
}

// policyDraft is a Policy block whose Type is not known yet. Zero is the helper's default.
type policyDraft struct {
	name    string
	at      Pos
	max     uint32
	timeout time.Duration
}

// maxPolicyName is the longest name of a policy, and maxPolicies are the most
// that a helper can have: NF_CT_EXPECT_MAX_CLASSES of the kernel.
const (
	maxPolicyName = 16
	maxPolicies   = 4
)

func enterPolicy(p *parser, s scope, at Pos) (scope, *Error) {
	const expected = "the name of a policy, which is that of the helper"
	name, err := p.word(expected)
	switch {
	case err != nil:
		return s, err
	case !p.isName(name.text):
		return s, p.mismatch(name, expected)
	case len(name.text) > maxPolicyName:
		return s, &Error{Pos: name.pos, Text: "Helper Policy is longer than 16 characters"}
	}
	s.policy = &policyDraft{name: name.text, at: name.pos}
	return s, nil
}

func leavePolicy(p *parser, s scope, at Pos) *Error {
	_, hasMax := p.cfg.pos[&s.policy.max]
	_, hasTimeout := p.cfg.pos[&s.policy.timeout]
	if !hasMax && !hasTimeout {
		return &Error{Pos: at, Text: "Helper policy configuration empty, fix your configuration file, please"}
	}
	for _, d := range p.policies {
		if d.name == s.policy.name {
			p.warn(at, OnCheck, "Policy "+d.name+" is given again, but that in line "+strconv.Itoa(d.at.Line)+" counts")
			return nil
		}
	}
	if len(p.policies) == maxPolicies {
		return &Error{Pos: s.policy.at, Text: "Unknown policy `" + abbreviated(s.policy.name) + "' in helper configuration"}
	}
	p.policies = append(p.policies, s.policy)
	return nil
}

// builtinHelper returns the policies of a built-in helper, which has one with its own name.
func builtinHelper(name string, protocol uint8) []HelperPolicy {
	if h := builtin.Find(name, protocol); h != nil {
		return []HelperPolicy{{name, h.ExpectMax, h.ExpectTimeout}}
	}
	return nil
}

func builtinHelperNames() []string {
	var names []string
	for _, h := range builtin.All() {
		names = append(names, h.Name)
	}
	return names
}
