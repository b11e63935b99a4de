package protofile

import (
	"strconv"
	"strings"
)

// ServicesFile is the path of services(5). Small systems do not have it.
const ServicesFile = "/etc/services"

// Services is the list of ports by service name: the key is NAME/PROTOCOL.
type Services map[string]uint16

// Port returns the port of a service over a protocol. As for getservbyname(3), names are
// case-sensitive.
func (s Services) Port(name, protocol string) (uint16, bool) {
	port, ok := s[name+"/"+protocol]
	return port, ok
}

// ParseServices parses lines of a name, PORT/PROTOCOL and aliases, with comments after #. The
// first line with a name and protocol counts. Lines of another form are ignored.
func ParseServices(text string) Services {
	services := make(Services)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, protocol, ok := strings.Cut(fields[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil || protocol == "" || strings.Contains(protocol, "/") {
			continue
		}
		fields[1] = fields[0]
		for _, name := range fields[1:] {
			if key := name + "/" + protocol; !services.has(key) {
				services[key] = uint16(port)
			}
		}
	}
	return services
}

func (s Services) has(key string) bool {
	_, ok := s[key]
	return ok
}

// CommonServices is a services(5) file with the services that filters name most often, for
// systems without the file. Numbers and names are from IANA's registry, aliases from Debian's
// file.
const CommonServices = `
echo 7/tcp
echo 7/udp
discard 9/tcp
discard 9/udp
discard 9/sctp
discard 9/dccp
ftp-data 20/tcp
ftp-data 20/sctp
ftp 21/tcp
ftp 21/sctp
ssh 22/tcp
ssh 22/sctp
telnet 23/tcp
smtp 25/tcp mail
time 37/tcp
time 37/udp
whois 43/tcp nicname
tacacs 49/tcp
tacacs 49/udp
domain 53/tcp
domain 53/udp
bootps 67/udp
bootpc 68/udp
tftp 69/udp
finger 79/tcp
http 80/tcp www
http 80/udp www
http 80/sctp
kerberos 88/tcp kerberos5 krb5
kerberos 88/udp kerberos5 krb5
pop3 110/tcp pop-3
sunrpc 111/tcp portmapper
sunrpc 111/udp portmapper
auth 113/tcp ident
nntp 119/tcp
ntp 123/udp
epmap 135/tcp loc-srv
netbios-ns 137/udp
netbios-dgm 138/udp
netbios-ssn 139/tcp
imap2 143/tcp imap
snmp 161/tcp
snmp 161/udp
snmp-trap 162/tcp snmptrap
snmp-trap 162/udp snmptrap
bgp 179/tcp
bgp 179/sctp
irc 194/tcp
irc 194/udp
ldap 389/tcp
ldap 389/udp
https 443/tcp
https 443/udp
https 443/sctp
microsoft-ds 445/tcp
isakmp 500/udp
syslog 514/udp
shell 514/tcp
printer 515/tcp
route 520/udp router routed
ldaps 636/tcp
ldaps 636/udp
submissions 465/tcp smtps ssmtp urd
submission 587/tcp
ipp 631/tcp
domain-s 853/tcp
domain-s 853/udp
rsync 873/tcp
ftps-data 989/tcp
ftps 990/tcp
imaps 993/tcp
pop3s 995/tcp
socks 1080/tcp
openvpn 1194/tcp
openvpn 1194/udp
ms-sql-s 1433/tcp
ms-sql-m 1434/udp
l2tp 1701/udp l2f
pptp 1723/tcp
radius 1812/tcp
radius 1812/udp
radius-acct 1813/tcp radacct
radius-acct 1813/udp radacct
ssdp 1900/udp
nfs 2049/tcp
nfs 2049/udp
nfs 2049/sctp
mysql 3306/tcp
ms-wbt-server 3389/tcp
stun 3478/tcp turn
stun 3478/udp turn
diameter 3868/tcp
diameter 3868/sctp
svn 3690/tcp subversion
ipsec-nat-t 4500/udp
sip 5060/tcp
sip 5060/udp
sip 5060/sctp
sip-tls 5061/tcp
sip-tls 5061/udp
xmpp-client 5222/tcp jabber-client
xmpp-server 5269/tcp jabber-server
mdns 5353/udp
postgresql 5432/tcp postgres
amqps 5671/tcp
amqp 5672/tcp
amqp 5672/sctp
vnc-server 5900/tcp rfb
x11 6000/tcp
redis 6379/tcp
git 9418/tcp
http-alt 8080/tcp webcache
`
