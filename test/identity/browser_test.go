package identity

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// A tab is one of a real browser, with nothing remembered.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func newTab(t *testing.T) tab {
	t.Helper()
	needsWhole(t)
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v (apt-get install chromium)", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.Headless, chromedp.NoSandbox, chromedp.WindowSize(1000, 700), chromedp.WSURLReadTimeout(2*time.Minute))
	browser, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel)
	return tab{t, ctx}
}

// do does things one after the other.
func (b tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		at, _ := chromedp.Run(b.ctx, chromedp.Location()) // to say more of what failed
		b.t.Fatalf("at %s: %v", at, err)
	}
}

// open goes to a page.
func (b tab) open(target string) {
	b.t.Helper()
	b.do(chromedp.Navigate(target))
}

// run runs a script in the page.
func (b tab) run(script string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](script)); err != nil && !errors.Is(err, chromedp.ErrJSUndefined) {
		b.t.Fatal(err)
	}
}

// logIn fills in Keycloak's page.
func (b tab) logIn(user string) {
	b.t.Helper()
	b.do(
		chromedp.WaitVisible("#username"),
		chromedp.SendKeys("#username", user),
		chromedp.SendKeys("#password", user+"-password"),
		chromedp.Click("#kc-login"),
	)
}

// sees waits until the page has a text that matches.
func (b tab) sees(pattern string) {
	b.t.Helper()
	re := regexp.MustCompile(pattern)
	text := ""
	defer func() {
		if b.t.Failed() {
			b.t.Logf("the page says %q", text)
		}
	}()
	testkit.Eventually(b.t, "the page has "+pattern, func() bool {
		// A page that is just going fails.
		if got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.documentElement ? document.documentElement.innerText : ""`)); err == nil {
			text = got
		}
		return re.MatchString(text)
	})
}

// picture keeps what a page of ours looks like, by day and by night, where
// GRAPHENE_TEST_PICTURES says, if it does.
func (b tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("GRAPHENE_TEST_PICTURES")
	if dir == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		b.do(func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
			features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
			return chromedp.Void{}, err
		})
		png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+"-"+scheme+".png"), png, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

// opener returns a program that takes the place of a person's browser, and the
// file in which it notes what it is to open.
func opener(t *testing.T) (program, file string) {
	t.Helper()
	dir := t.TempDir()
	program, file = filepath.Join(dir, "browser"), filepath.Join(dir, "url")
	script := "#!/bin/sh\nprintf %s \"$1\" >" + file + ".part && mv " + file + ".part " + file + "\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, file
}

func TestARealBrowserLogsTheCommandLineIn(t *testing.T) {
	p := serveAcme(t)
	b := newTab(t)
	program, file := opener(t)
	c := p.terminal(t, "BROWSER="+program)
	login := c.start("login")
	var target string
	testkit.Eventually(t, "the browser is opened", func() bool {
		text, err := os.ReadFile(file)
		target = string(text)
		return err == nil
	})
	b.open(target)
	b.logIn("alice")
	b.sees("You may close this window")
	b.picture("logged-in")
	login.ends(0)
	if who := c.whoami(); who.Name != "alice" || who.Login != "browser" {
		t.Errorf("whoami: %+v", who)
	}
	c.run("logout")
}

func TestARealBrowserHasASession(t *testing.T) {
	p := serveAcme(t)
	p.deploy(p.admin(t))
	b := newTab(t)
	b.open(p.url + "/auth/login?return_to=/auth/me")
	b.logIn("bob")
	b.sees(`"name":"bob"`)
	// What a page of the platform's own can do, and sees of the cookies.
	b.run(`document.body.innerText = "cookies: [" + document.cookie + "]"`)
	b.sees(`cookies: \[\]`)
	b.run(`fetch("/function/echo", {method: "POST", body: "from a page"}).then(async r => document.body.innerText = "answered " + r.status + " " + await r.text())`)
	b.sees("answered 200 ")
	b.run(`fetch("/function/secretive", {method: "POST"}).then(r => document.body.innerText = "answered " + r.status)`)
	b.sees("answered 403")

	// The page of a function is on the same host, and may not use the session.
	b.open(p.url + "/function/echo")
	b.run(`document.documentElement.innerText = "origin " + self.origin`)
	b.sees("origin null")
	b.run(`fetch("/auth/me", {mode: "cors"}).then(r => document.documentElement.innerText = "answered " + r.status, e => document.documentElement.innerText = "refused")`)
	b.sees("refused")

	// A page of another site sends a form.
	other := newPersonPage(t, `<form method="post" action="`+p.url+`/function/echo"><button id="go">go</button></form>`)
	b.do(chromedp.Navigate(other), chromedp.Click("#go"))
	// The cookie stays away, and if it did not, the origin would be seen.
	b.sees("credentials|another site|token")

	b.open(p.url + "/auth/logout")
	b.sees(`Log out\?`)
	b.picture("log-out")
	b.run(`document.querySelector("button").click()`)
	b.sees("You are logged out")
	b.picture("logged-out")
	b.open(p.url + "/auth/login")
	b.do(chromedp.WaitVisible("#username")) // at Keycloak, too

	// Somebody says no, or comes back too late.
	b.open(p.url + "/auth/callback?error=access_denied&state=x")
	b.sees("That did not work")
	b.picture("failed")
}

// newPersonPage returns the address of a page of another site.
func newPersonPage(t *testing.T, text string) string {
	t.Helper()
	return "data:text/html," + url.PathEscape(text)
}
