package trace

import (
	"cmp"
	"maps"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Settings is what OpenTelemetry's own variables say, for programs to embed in
// their configuration. The exporter reads some more by itself: timeouts,
// compression and certificates.
type Settings struct {
	TraceEndpoint   string `env:"OTEL_EXPORTER_OTLP_ENDPOINT" doc:"OpenTelemetry collector that spans are sent to by OTLP over HTTP, such as http://collector:4318; without it there are no spans"`
	TraceURL        string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" doc:"the same with the whole path, such as http://collector:4318/v1/traces; it wins"`
	TraceProtocol   string `env:"OTEL_EXPORTER_OTLP_PROTOCOL" envDefault:"http/protobuf" doc:"how spans are sent; there is no other"`
	TraceHeaders    string `env:"OTEL_EXPORTER_OTLP_HEADERS" doc:"headers sent with spans, such as a key: NAME=VALUE, separated by commas"`
	TraceService    string `env:"OTEL_SERVICE_NAME" doc:"name of the service in spans (default: graphene, and the program's name in a cluster)"`
	TraceAttributes string `env:"OTEL_RESOURCE_ATTRIBUTES" doc:"what else spans say of their service: NAME=VALUE, separated by commas"`
	TraceSampler    string `env:"OTEL_TRACES_SAMPLER" envDefault:"parentbased_always_on" doc:"which traces are sent: always_on, always_off or traceidratio, each also with parentbased_ before it, which leaves the decision to the caller where there is one"`
	TraceRatio      string `env:"OTEL_TRACES_SAMPLER_ARG" envDefault:"1" doc:"part of the traces that traceidratio sends, from 0 to 1"`
}

// asked reports whether there are to be spans.
func (c Settings) asked() bool { return c.TraceEndpoint != "" || c.TraceURL != "" }

// exporter says where spans go.
func (c Settings) exporter() ([]otlptracehttp.Option, error) {
	if c.TraceProtocol != "" && c.TraceProtocol != "http/protobuf" {
		return nil, fault.Invalid.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q, want http/protobuf", c.TraceProtocol)
	}
	name, text := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.TraceURL
	if text == "" {
		name, text = "OTEL_EXPORTER_OTLP_ENDPOINT", strings.TrimRight(c.TraceEndpoint, "/")+"/v1/traces"
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Invalid.Errorf("%s is %q, want a URL such as http://collector:4318", name, cmp.Or(c.TraceURL, c.TraceEndpoint))
	}
	headers, err := pairs("OTEL_EXPORTER_OTLP_HEADERS", c.TraceHeaders)
	if err != nil {
		return nil, err
	}
	options := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(u.String())}
	if len(headers) > 0 {
		options = append(options, otlptracehttp.WithHeaders(headers))
	}
	return options, nil
}

// sampler chooses traces.
func (c Settings) sampler() (sdk.Sampler, error) {
	name, parentBased := strings.CutPrefix(cmp.Or(c.TraceSampler, "parentbased_always_on"), "parentbased_")
	var root sdk.Sampler
	switch name {
	case "always_on":
		root = sdk.AlwaysSample()
	case "always_off":
		root = sdk.NeverSample()
	case "traceidratio":
		ratio, err := strconv.ParseFloat(cmp.Or(c.TraceRatio, "1"), 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fault.Invalid.Errorf("OTEL_TRACES_SAMPLER_ARG is %q, want a number from 0 to 1", c.TraceRatio)
		}
		root = sdk.TraceIDRatioBased(ratio)
	default:
		return nil, fault.Invalid.Errorf("OTEL_TRACES_SAMPLER is %q, want always_on, always_off or traceidratio, maybe with parentbased_ before it", c.TraceSampler)
	}
	if parentBased {
		root = sdk.ParentBased(root)
	}
	return root, nil
}

// resource says who makes the spans.
func (c Settings) resource(service, version string) ([]attribute.KeyValue, error) {
	given, err := pairs("OTEL_RESOURCE_ATTRIBUTES", c.TraceAttributes)
	if err != nil {
		return nil, err
	}
	about := map[string]string{"service.name": service, "service.version": version}
	if host, err := os.Hostname(); err == nil {
		about["host.name"] = host
	}
	maps.Copy(about, given)
	if c.TraceService != "" {
		about["service.name"] = c.TraceService
	}
	var all []attribute.KeyValue
	for k, v := range about {
		all = append(all, attribute.String(k, v))
	}
	return all, nil
}

// pairs reads NAME=VALUE,NAME=VALUE, with values percent-encoded where they
// must be.
func pairs(name, text string) (map[string]string, error) {
	all := map[string]string{}
	for i, pair := range strings.Split(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(v))
		if k = strings.TrimSpace(k); !ok || k == "" || err != nil {
			return nil, fault.Invalid.Errorf("%s: entry %d is not NAME=VALUE", name, i+1) // and may be a secret
		}
		all[k] = value
	}
	return all, nil
}
