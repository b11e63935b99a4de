package metrics

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"ctbox/internal/netnstest"
)

// patience is longer than any step of these tests takes.
const patience = 20 * time.Second

// serve runs a server until the test ends and returns its address.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	l, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Metrics == nil {
		s.Metrics = func(context.Context, bool) ([]byte, error) { return []byte("# EOF\n"), nil }
	}
	s.Log = slog.New(slog.DiscardHandler)
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		end()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server does not end")
		}
	})
	return l.Addr().String()
}

// dial connects to the server.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// ask sends text unchanged and returns the answer, read by the standard library's client, with
// its body.
func ask(t testing.TB, addr, text string) (*http.Response, string) {
	t.Helper()
	conn := dial(t, addr)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	defer conn.Close()
	return answerOf(t, conn, method)
}

func answerOf(t testing.TB, conn net.Conn, method string) (*http.Response, string) {
	t.Helper()
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("behind the answer comes %q, %v", rest, err)
	}
	return response, string(body)
}

const host = "Host: x\r\n\r\n"

func TestRequests(t *testing.T) {
	addr := serve(t, &Server{})
	many := strings.Repeat("A: b\r\n", maxFields-1)
	for _, c := range []struct {
		request string
		want    int
	}{
		{"GET /metrics HTTP/1.1\r\n" + host, 200},
		{"HEAD /metrics HTTP/1.1\r\n" + host, 200},
		{"GET /metrics?name[]=x HTTP/1.1\r\n" + host, 200},
		{"GET http://x/metrics HTTP/1.1\r\n" + host, 200},
		{"GET HTTP://x:9107/metrics?a HTTP/1.1\r\n" + host, 200},
		{"GET /metrics HTTP/1.0\r\n\r\n", 200},
		{"GET /metrics HTTP/1.2\r\nhOST:x\r\n\r\n", 200},
		{"GET /metrics HTTP/1.1\nHost: x\n\n", 200},
		{"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n", 200}, // RFC 9112 section 3.2: without authority it is empty
		{"GET /metrics HTTP/1.1\r\n" + many + host, 200},
		{"GET /metrics HTTP/1.1\r\nConnection: keep-alive\r\nAccept: text/plain\r\n" + host, 200},
		{"GET /metrics HTTP/1.1\r\nContent-Length: 3\r\nHost: x\r\n\r\nabc", 200},
		{"GET /metrics HTTP/1.1\r\nX: caf\xc3\xa9\t!\r\n" + host, 200},

		{"GET /metrics HTTP/1.1\r\n\r\n", 400},
		{"GET /metrics HTTP/1.1\r\nHost: x\r\n" + host, 400},
		{"GET  /metrics HTTP/1.1\r\n" + host, 400},
		{"GET /metrics\r\n" + host, 400},
		{"GET /metrics HTTP/1.1 \r\n" + host, 400},
		{"GET /me trics HTTP/1.1\r\n" + host, 400},
		{"GET /metrics\x00 HTTP/1.1\r\n" + host, 400},
		{"GET /metrics HTTP/11\r\n" + host, 400},
		{"GET /metrics HTTP/1.x\r\n" + host, 400},
		{"GET /metrics http/1.1\r\n" + host, 400},
		{"G{T /metrics HTTP/1.1\r\n" + host, 400},
		{" GET /metrics HTTP/1.1\r\n" + host, 400},
		{"\r\n\r\n", 400},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400}, // TLS
		{"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", 400},
		{"GET /metrics HTTP/1.1\r\nA: b\r\n folded\r\n" + host, 400},
		{"GET /metrics HTTP/1.1\r\nno field\r\n" + host, 400},
		{"GET /metrics HTTP/1.1\r\n: x\r\n" + host, 400},
		{"GET /metrics HTTP/1.1\r\nA: \x01\r\n" + host, 400},
		{"GET /metrics HTTP/1.1\r\nA: b\rc\r\n" + host, 400},
		{"GET /metrics HTTP/1.1\r\nA: b\r\n" + many + host, 400},

		{"GET / HTTP/1.1\r\n" + host, 404},
		{"GET /metrics/ HTTP/1.1\r\n" + host, 404},
		{"GET /Metrics HTTP/1.1\r\n" + host, 404},
		{"GET //metrics HTTP/1.1\r\n" + host, 404},
		{"GET /x/../metrics HTTP/1.1\r\n" + host, 404},
		{"GET metrics HTTP/1.1\r\n" + host, 404},
		{"GET http:///metrics HTTP/1.1\r\n" + host, 404},
		{"GET http://metrics HTTP/1.1\r\n" + host, 404},
		{"HEAD /x HTTP/1.1\r\n" + host, 404},
		{"OPTIONS * HTTP/1.1\r\n" + host, 404},

		{"POST /metrics HTTP/1.1\r\n" + host, 405},
		{"get /metrics HTTP/1.1\r\n" + host, 405},
		{"DELETE /metrics HTTP/1.1\r\n" + host, 405},

		{"GET /metrics HTTP/1.1\r\nA: " + strings.Repeat("b", maxHead) + "\r\n" + host, 431},
		{strings.Repeat("x", maxHead), 431},

		{"GET /metrics HTTP/2.0\r\n" + host, 505},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
	} {
		response, body := ask(t, addr, c.request)
		if response.StatusCode != c.want {
			t.Errorf("%.80q: %s, want %d", c.request, response.Status, c.want)
		}
		if want := fmt.Sprintf("%d %s", c.want, http.StatusText(c.want)); response.Status != want {
			t.Errorf("%.80q: %q, want %q", c.request, response.Status, want)
		}
		if at, err := http.ParseTime(response.Header.Get("Date")); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%.80q: Date %q", c.request, response.Header.Get("Date"))
		}
		if !response.Close || response.ProtoMinor != 1 {
			t.Errorf("%.80q: the answer is %+v", c.request, response)
		}
		if (response.Header.Get("Allow") == "GET, HEAD") != (c.want == 405) {
			t.Errorf("%.80q: Allow %q", c.request, response.Header.Get("Allow"))
		}
		isHead := strings.HasPrefix(c.request, "HEAD")
		switch {
		case isHead && (body != "" || response.ContentLength <= 0):
			t.Errorf("%.80q: %d bytes of %d", c.request, len(body), response.ContentLength)
		case !isHead && int64(len(body)) != response.ContentLength:
			t.Errorf("%.80q: %d bytes of %d", c.request, len(body), response.ContentLength)
		case c.want == 200 && (response.Header.Get("Content-Type") != typePrometheus || !isHead && body != "# EOF\n"):
			t.Errorf("%.80q: %v %q", c.request, response.Header, body)
		}
	}
}

// prometheusAccept is what Prometheus 2.42 sends.
const prometheusAccept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75," +
	"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

// A client gets OpenMetrics if it asks for it, and otherwise the format that every
// consumer reads.
func TestFormats(t *testing.T) {
	addr := serve(t, &Server{Metrics: func(_ context.Context, openMetrics bool) ([]byte, error) {
		return fmt.Append(nil, openMetrics), nil
	}})
	for _, c := range []struct {
		fields string
		want   bool
	}{
		{"", false},
		{"Accept: */*\r\n", false},
		{"Accept: application/*\r\n", false},
		{"Accept: text/html, */*;q=0.1\r\n", false},
		{"Accept: text/plain;version=0.0.4\r\n", false},
		{"Accept:\r\n", false},
		{"Accept: application/openmetrics-text;q=0\r\n", false},
		{"Accept: application/openmetrics-text;version=2.0.0\r\n", false},
		{"Accept: application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n", false}, // Prometheus 2.5 to 2.33
		{"Accept: application/openmetrics-text;q=0.5,text/plain;q=0.6\r\n", false},
		{"Accept: application/openmetrics-text;q=0.5,text/*\r\n", false},

		{"Accept: " + prometheusAccept + "\r\n", true},
		{"Accept: application/openmetrics-text\r\n", true},
		{"aCCEPT:Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.001\r\n", true},
		{"Accept: text/plain;q=0.4\r\nAccept: application/openmetrics-text;q=0.5\r\n", true},
		{"Accept: */*, text/plain;q=0.4, application/openmetrics-text;q=0.5\r\n", true},
		{"Accept: text/plain;version=1.0.0, application/openmetrics-text;q=0.5\r\n", true},
	} {
		response, body := ask(t, addr, "GET /metrics HTTP/1.1\r\n"+c.fields+host)
		want := typePrometheus
		if c.want {
			want = typeOpenMetrics
		}
		if got := response.Header.Get("Content-Type"); got != want || body != fmt.Sprint(c.want) || response.Header.Get("Vary") != "Accept" {
			t.Errorf("%q: %s, %q", c.fields, got, body)
		}
	}
}

// A request may arrive in any number of segments.
func TestRequestInPieces(t *testing.T) {
	const request = "GET /metrics HTTP/1.1\r\n" + host + "rest"
	head, err := readHead(iotest.OneByteReader(strings.NewReader(request)))
	if err != nil || string(head)+"rest" != request {
		t.Errorf("%q, %v", head, err)
	}
	for _, c := range []struct {
		text string
		want error
	}{{"GET /metrics HTTP/1.1\r\nHost: x\r\n", io.EOF}, {strings.Repeat("x", maxHead+1), errTooLarge}} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(c.text), "pieces": iotest.OneByteReader(strings.NewReader(c.text))} {
			if _, err := readHead(r); !errors.Is(err, c.want) {
				t.Errorf("%s %.20q: %v", name, c.text, err)
			}
		}
	}
}

// Of pipelined requests only the first is answered. The connection is closed without a reset,
// so that no part of the answer is lost.
func TestPipelining(t *testing.T) {
	large := bytes.Repeat([]byte("# a line of metrics\n"), 100_000)
	addr := serve(t, &Server{Metrics: func(context.Context, bool) ([]byte, error) { return large, nil }})
	response, body := ask(t, addr, strings.Repeat("GET /metrics HTTP/1.1\r\n"+host, 500))
	if response.StatusCode != 200 || body != string(large) {
		t.Errorf("%s, %d bytes", response.Status, len(body))
	}
}

// The standard library's client accepts the answers.
func TestClient(t *testing.T) {
	addr := serve(t, &Server{})
	for range 3 {
		response, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "# EOF\n" {
			t.Errorf("%q, %v", body, err)
		}
		if response, err = http.Head("http://" + addr + path); err != nil || response.ContentLength != 6 {
			t.Errorf("HEAD: %+v, %v", response, err)
		}
	}
}

// A client that sends its request too slowly gets an error when its time is over. Other clients
// are answered meanwhile.
func TestSlowClients(t *testing.T) {
	addr := serve(t, &Server{readTimeout: 500 * time.Millisecond})
	begin := time.Now()
	slow := dial(t, addr)
	go func() {
		for range 1000 {
			if _, err := io.WriteString(slow, "A"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond) // the slowness of the client, not a wait of the test
		}
	}()
	if response, _ := ask(t, addr, "GET /metrics HTTP/1.1\r\n"+host); response.StatusCode != 200 {
		t.Error(response.Status)
	}
	response, _ := answerOf(t, slow, "GET")
	if took := time.Since(begin); response.StatusCode != 408 || took > patience/2 {
		t.Errorf("%s after %v", response.Status, took)
	}
}

// A client that does not read its answer is dropped and does not delay others.
func TestClientThatDoesNotRead(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 32<<20)
	s := &Server{writeTimeout: 300 * time.Millisecond, Metrics: func(context.Context, bool) ([]byte, error) { return large, nil }}
	addr := serve(t, s)
	var deaf []*net.TCPConn
	for range maxClients {
		conn := dial(t, addr)
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\n"+host); err != nil {
			t.Fatal(err)
		}
		deaf = append(deaf, conn)
	}
	netnstest.Eventually(t, patience, "there is room again", func() bool {
		response, _ := ask(t, addr, "HEAD /metrics HTTP/1.1\r\n"+host)
		return response.StatusCode == 200
	})
	for _, conn := range deaf {
		if n, err := io.Copy(io.Discard, conn); err == nil && n >= int64(len(large)) {
			t.Error("a deaf client got everything")
		}
	}
}

// The number of clients is limited; a client above the limit gets an error.
func TestTooManyClients(t *testing.T) {
	addr := serve(t, &Server{})
	var idle []*net.TCPConn
	for range maxClients {
		idle = append(idle, dial(t, addr))
	}
	// Connections are accepted in their order.
	response, _ := ask(t, addr, "GET /metrics HTTP/1.1\r\n"+host)
	if response.StatusCode != 503 || response.Header.Get("Retry-After") != "1" {
		t.Errorf("%s %v", response.Status, response.Header)
	}
	idle[0].Close()
	netnstest.Eventually(t, patience, "there is room again", func() bool {
		response, _ := ask(t, addr, "GET /metrics HTTP/1.1\r\n"+host)
		return response.StatusCode == 200
	})
}

// For any number of clients, metrics are collected at most a few times a second.
func TestMetricsAreCached(t *testing.T) {
	var asked atomic.Int64
	s := &Server{Metrics: func(context.Context, bool) ([]byte, error) { return fmt.Appendf(nil, "%d", asked.Add(1)), nil }}
	addr := serve(t, s)
	begin := time.Now()
	for range 100 {
		ask(t, addr, "GET /metrics HTTP/1.1\r\n"+host)
	}
	if most := int64(time.Since(begin)/maxAge) + 2; asked.Load() > most {
		t.Errorf("asked %d times in %v", asked.Load(), time.Since(begin))
	}
	before := asked.Load()
	netnstest.Eventually(t, patience, "newer numbers", func() bool {
		_, body := ask(t, addr, "GET /metrics HTTP/1.1\r\n"+host)
		return body > fmt.Sprint(before)
	})
}

// If no metrics can be collected, the answer is an error.
func TestNoMetrics(t *testing.T) {
	s := &Server{Metrics: func(context.Context, bool) ([]byte, error) { return nil, errors.New("the daemon is shutting down") }}
	if response, _ := ask(t, serve(t, s), "GET /metrics HTTP/1.1\r\n"+host); response.StatusCode != 503 {
		t.Error(response.Status)
	}
}

// A daemon that ends does not wait for clients without a request.
func TestEnd(t *testing.T) {
	l, err := Listen(netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Log: slog.New(slog.DiscardHandler), Metrics: func(context.Context, bool) ([]byte, error) { return nil, nil }}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn := dial(t, l.Addr().String())
	io.WriteString(conn, "GET /metrics HTTP/1.1\r\n")
	begin := time.Now()
	end()
	if err := <-done; err != nil || time.Since(begin) > readTimeout/2 {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the socket is open")
	}
}

// FuzzRequest compares the parser with the standard library's.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /metrics HTTP/1.1\r\n" + host, "HEAD http://x/metrics?a HTTP/1.0\r\n\r\n", "POST /metrics HTTP/1.1\nHost: x\n\n",
		"GET / HTTP/2.0\r\n\r\n", "GET /metrics HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nAccept: " + prometheusAccept + "\r\n" + host,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		head, err := readHead(bytes.NewReader(request))
		if err != nil {
			if len(head) > 0 || len(request) < maxHead && bytes.Contains(request, []byte("\r\n\r\n")) {
				t.Fatalf("%q: %v", request, err)
			}
			return
		}
		if !bytes.HasPrefix(request, head) || !bytes.HasSuffix(head, []byte("\n")) || len(head) > maxHead {
			t.Fatalf("the head of %q is %q", request, head)
		}
		code, req := parse(head)
		if statusTexts[code] == "" || req.head && !bytes.HasPrefix(head, []byte("HEAD ")) {
			t.Fatalf("%q: %d, %+v", head, code, req)
		}
		if req.openMetrics && !bytes.Contains(bytes.ToLower(head), []byte("openmetrics-text")) {
			t.Fatalf("%q does not ask for OpenMetrics", head)
		}
		if code != statusOK {
			return
		}
		// A request that is answered must be a request for the metrics by the standard library, too.
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err == nil && (r.URL.Path != path || r.Method != "GET" && r.Method != "HEAD") {
			t.Fatalf("%q is taken for the metrics, and is %s %s", head, r.Method, r.URL)
		}
	})
}
