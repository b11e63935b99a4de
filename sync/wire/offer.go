package wire

import "encoding/binary"

// MaxOfferKeys is the largest number of keys in an Offer.
const MaxOfferKeys = 16

// Offer is what a node says about itself to agree on the version of the protocol with a peer.
// It is sent in the clear with version 1, so it has no secret. An Offer is comparable.
type Offer struct {
	// Cluster is ClusterHash of the cluster's name.
	Cluster uint32
	// Node is the sender's number, 1 to 255.
	Node uint8
	// Version is the highest version of the protocol that the sender speaks.
	Version uint8
	// Plain is set if the sender accepts datagrams that are not sealed.
	Plain bool
	// Send is the number of the key that the sender seals with, 0 without keys.
	Send uint8
	// Keys has the keys that the sender can open, Send among them, by ascending number and then zeroes.
	Keys [MaxOfferKeys]OfferKey
}

// OfferKey names a key of a cluster.
type OfferKey struct {
	Number uint8 // from 1; 0 for none
	// Check is two bytes that are derived from the key. They differ where files of the same
	// number have different contents, and are of no use for finding the key.
	Check uint16
}

// offerPlain is the flag of Offer.Plain.
const offerPlain = 0x01

// offerLen is the size of an offer without keys, and offerKeyLen that of each key.
const (
	offerLen    = 8
	offerKeyLen = 3
)

// ClusterHash returns the hash of a cluster's name that an Offer has: FNV-1a of 32 bits.
func ClusterHash(name string) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return h
}

// Key returns the offer's key of a number, zero if it has none.
func (o *Offer) Key(number uint8) OfferKey {
	for _, k := range o.Keys {
		if k.Number == number {
			return k
		}
	}
	return OfferKey{}
}

// keys returns how many keys the offer has.
func (o *Offer) keys() (n int) {
	for n < len(o.Keys) && o.Keys[n].Number != 0 {
		n++
	}
	return n
}

func (o *Offer) size() int { return offerLen + offerKeyLen*o.keys() }

func (o *Offer) append(dst []byte) []byte {
	flags := byte(0)
	if o.Plain {
		flags |= offerPlain
	}
	dst = binary.BigEndian.AppendUint32(dst, o.Cluster)
	dst = append(dst, o.Node, o.Version, flags, o.Send)
	for _, k := range o.Keys[:o.keys()] {
		dst = append(dst, k.Number, byte(k.Check>>8), byte(k.Check))
	}
	return dst
}

// parse reads an offer. It returns false, and leaves o empty, if the offer is not of the form
// that append makes. Unknown flags are skipped.
func (o *Offer) parse(b []byte) bool {
	*o = Offer{}
	if len(b) < offerLen || len(b) > offerLen+offerKeyLen*MaxOfferKeys || (len(b)-offerLen)%offerKeyLen != 0 || b[4] == 0 {
		return false
	}
	got := Offer{Cluster: binary.BigEndian.Uint32(b), Node: b[4], Version: b[5], Plain: b[6]&offerPlain != 0, Send: b[7]}
	last := uint8(0)
	for i := range got.Keys[:(len(b)-offerLen)/offerKeyLen] {
		k := b[offerLen+offerKeyLen*i:]
		if k[0] <= last {
			return false
		}
		got.Keys[i], last = OfferKey{k[0], binary.BigEndian.Uint16(k[1:])}, k[0]
	}
	if got.Send != 0 && got.Key(got.Send).Number == 0 || got.Send == 0 && last != 0 {
		return false
	}
	*o = got
	return true
}
