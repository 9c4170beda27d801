package e2e

import "testing"

// TestTheFirstTwoLinesOfAnyTutorialWork types what tutorials of OpenFaaS begin
// with. Newer versions write stack.yaml; the second line still means its
// function.
func TestTheFirstTwoLinesOfAnyTutorialWork(t *testing.T) {
	p := start(t)
	p.cli("new", "--lang", "python3", "python3-fn")
	p.cli("up", "-f", "python3-fn.yml")
	if a := p.call(200, "POST", "/function/python3-fn", "hello"); a.body != "HELLO" {
		t.Errorf("answer %q", a.body)
	}
}
