package seal

import (
	"bytes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// KeyLen is the length of a key in bytes. A key file has them in base64.
const KeyLen = 32

// MaxKeys is the largest number of keys of a Ring.
const MaxKeys = 16

// ExampleKey is the key of the documentation's examples, which is refused: anyone may read it.
const ExampleKey = "Y3Rib3gtZXhhbXBsZS1rZXktZG8tbm90LXVzZS1pdCE="

// GenerateKey returns the contents of a new key file, with a newline. random is a source of
// random bytes, such as crypto/rand.Reader.
func GenerateKey(random io.Reader) (string, error) {
	var key [KeyLen]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return base64.StdEncoding.EncodeToString(key[:]) + "\n", nil
}

var errNoKey = fmt.Errorf("a key is %d bytes in base64 (`conntrackd --genkey` prints one)", KeyLen)

// ParseKey reads the contents of a key file: 32 bytes in base64 and at most one newline.
func ParseKey(text []byte) (key [KeyLen]byte, err error) {
	text = bytes.TrimSuffix(text, []byte("\n"))
	if len(text) != base64.StdEncoding.EncodedLen(KeyLen) {
		return key, errNoKey
	}
	if string(text) == ExampleKey {
		return key, errors.New("it is the key of the documentation's examples, which is no secret")
	}
	// Strict: two texts never stand for one key.
	decoded, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(decoded) != KeyLen {
		return key, errNoKey
	}
	copy(key[:], decoded)
	if key == [KeyLen]byte{} {
		return key, errors.New("the key is all zeroes")
	}
	return key, nil
}

// ReadKey reads a key file, following symbolic links. It must belong to root or to the user
// uid, and neither its group nor others may have any access to it. The error names the file.
func ReadKey(path string, uid int) (key [KeyLen]byte, err error) {
	// Without O_NONBLOCK a named pipe would stop the daemon here.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return key, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return key, err
	}
	switch owner := int(info.Sys().(*syscall.Stat_t).Uid); {
	case !info.Mode().IsRegular():
		return key, fmt.Errorf("%s: it is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		return key, fmt.Errorf("%s: its mode is %#o: group and others must have no access", path, info.Mode().Perm())
	case owner != 0 && owner != uid:
		return key, fmt.Errorf("%s: it belongs to user %d: it must belong to root or to the daemon's user", path, owner)
	}
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return key, fmt.Errorf("read %s: %w", path, err)
	}
	if key, err = ParseKey(text); err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// Ring is the keys of a cluster by number, 1 to 255. All of them open datagrams, one seals. A
// Ring is immutable.
type Ring struct {
	slots [256]uint8                // by number: an index of keys, from 1; 0 for no key
	keys  [MaxKeys + 1][KeyLen]byte // the working keys
	mark  [256]uint16               // by number: see Check
	send  uint8                     // 0 without keys
	salt  byte                      // of Session.tryOpen's choice
}

// NewRing returns the Ring of a cluster. keys are the contents of the key files; send is the
// number of the one that seals. Without keys datagrams are plain.
func NewRing(cluster string, keys map[uint8][KeyLen]byte, send uint8) (*Ring, error) {
	if len(keys) > MaxKeys {
		return nil, fmt.Errorf("%d keys: a cluster has at most %d", len(keys), MaxKeys)
	}
	r := &Ring{send: send}
	slot := uint8(0)
	for number, key := range keys {
		if number == 0 {
			return nil, errors.New("key 0: keys have the numbers 1 to 255")
		}
		slot++
		r.slots[number] = slot
		r.keys[slot] = Derive(key, cluster, "seal")
		mark := Derive(key, cluster, "check")
		r.mark[number] = binary.BigEndian.Uint16(mark[:])
		salt := Derive(key, cluster, "salt")
		r.salt ^= salt[0]
	}
	if (len(keys) > 0 || send != 0) && r.slots[send] == 0 {
		return nil, fmt.Errorf("key %d, which is to seal, is not among the keys", send)
	}
	return r, nil
}

// Check returns two bytes that are derived from the key of a number, 0 without it. They tell two
// keys apart without saying anything of use about either.
func (r *Ring) Check(number uint8) uint16 { return r.mark[number] }

// Derive returns the working key for a purpose: BLAKE2b-256, keyed with key, of the purpose, a
// zero byte and the cluster's name. So a key that was copied to another cluster does not join
// the two.
func Derive(key [KeyLen]byte, cluster, purpose string) (out [KeyLen]byte) {
	h, err := blake2b.New256(key[:])
	if err != nil {
		panic(err) // the key's length is right
	}
	io.WriteString(h, purpose)
	h.Write([]byte{0})
	io.WriteString(h, cluster)
	h.Sum(out[:0])
	return out
}

// cipherOf returns the cipher of a life under the key of a number, nil if the Ring has no such
// key. Together with nonce it is XChaCha20-Poly1305 with the boot id and the counter as its
// nonce, whose first half is worked out once for a life.
func (r *Ring) cipherOf(number uint8, boot *BootID) cipher.AEAD {
	slot := r.slots[number]
	if slot == 0 {
		return nil
	}
	sub, err := chacha20.HChaCha20(r.keys[slot][:], boot[:])
	if err != nil {
		panic(err) // the lengths are right
	}
	aead, err := chacha20poly1305.New(sub)
	if err != nil {
		panic(err)
	}
	return aead
}
