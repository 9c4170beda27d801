package serve

import (
	"path/filepath"
	"strings"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/function"
)

// envPrefix begins the environment variables that have no OpenFaaS name.
const envPrefix = "GRAPHENE_"

// Config is what can be said about a platform from outside: by flags of
// `graphene serve`, or by environment variables of the names given here.
type Config struct {
	Listen              string            `env:"GRAPHENE_LISTEN" envDefault:"127.0.0.1:8080" doc:"address of the gateway; port 0 takes a free one, systemd the socket that systemd has opened, which accepts callers while the platform restarts"`
	MetricsListen       string            `env:"GRAPHENE_METRICS_LISTEN" envDefault:"127.0.0.1:8082" doc:"address of the metrics page, without authentication; port 0 takes a free one, off serves none"`
	DataDir             string            `env:"GRAPHENE_DATA_DIR" doc:"directory for everything that survives a restart (default: /var/lib/graphene as root, else graphene in the user's data directory)"`
	Login               bool              `env:"GRAPHENE_LOGIN" envDefault:"true" doc:"log the command line in at every start"`
	AuthConfig          string            `env:"auth_config" doc:"file of trusted issuers, roles and policies, read again when it changes; with it calls of functions need a token"`
	PublicURL           string            `env:"public_url" doc:"where callers reach this platform, such as https://functions.example.com; it is the issuer of the platform's own tokens (default: the address it listens on)"`
	ReadTimeout         function.Duration `env:"read_timeout" envDefault:"1m" doc:"longest time a request to the management API may take to arrive; calls follow their function's exec_timeout"`
	WriteTimeout        function.Duration `env:"write_timeout" envDefault:"1m" doc:"longest time an answer of the management API may take; followed logs are exempt"`
	MaxBody             function.Bytes    `env:"GRAPHENE_MAX_BODY" envDefault:"0" doc:"largest body of a call; 0 is no limit"`
	MaxHeader           function.Bytes    `env:"GRAPHENE_MAX_HEADER" envDefault:"1Mi" doc:"largest header of a call"`
	MaxWaiting          int               `env:"GRAPHENE_MAX_WAITING" envDefault:"1000" doc:"calls that may wait for a busy or sleeping function that does not say so itself; more get 429"`
	WakeTimeout         function.Duration `env:"GRAPHENE_WAKE_TIMEOUT" envDefault:"0s" doc:"longest time a call waits for the first replica of a function that does not say so itself; 0 is the function's load_timeout"`
	MaxUpload           function.Bytes    `env:"GRAPHENE_MAX_UPLOAD" envDefault:"8Gi" doc:"largest layer of an image that may be pushed"`
	Drain               function.Duration `env:"GRAPHENE_DRAIN" envDefault:"30s" doc:"longest time calls in flight may take once the platform is asked to stop"`
	KeepFrozen          function.Duration `env:"GRAPHENE_KEEP_FROZEN" envDefault:"10m" doc:"how long the last replica of a function that was put to sleep stays in memory, frozen; functions may say it themselves"`
	KeepZygote          function.Duration `env:"GRAPHENE_KEEP_ZYGOTE" envDefault:"1h" doc:"how long after that what a Python function has loaded stays in memory, without its workers"`
	Memory              function.Bytes    `env:"GRAPHENE_MEMORY" envDefault:"0" doc:"memory that all functions may use together; 0 is what the machine has, less a reserve"`
	QueueSync           QueueSync         `env:"queue_sync" envDefault:"2m" doc:"when accepted asynchronous calls are forced onto the disk: always, or every so often; a power cut can lose that much"`
	QueueMaxBacklog     int               `env:"GRAPHENE_QUEUE_MAX_BACKLOG" envDefault:"1048576" doc:"asynchronous calls of one function that may wait; more get 429"`
	QueueMaxBytes       function.Bytes    `env:"GRAPHENE_QUEUE_MAX_BYTES" envDefault:"10Gi" doc:"space that waiting asynchronous calls may take, half of it for what is small; more get 429"`
	QueueKeepBytes      function.Bytes    `env:"GRAPHENE_QUEUE_KEEP_BYTES" envDefault:"8Gi" doc:"space that results, dead letters and callbacks may take"`
	QueueMaxBody        function.Bytes    `env:"GRAPHENE_QUEUE_MAX_BODY" envDefault:"100M" doc:"largest body of an asynchronous call"`
	QueueMaxResults     int               `env:"GRAPHENE_QUEUE_MAX_RESULTS" envDefault:"200000" doc:"results of asynchronous calls that are kept"`
	QueueResultAge      function.Duration `env:"GRAPHENE_QUEUE_RESULT_AGE" envDefault:"24h" doc:"how long results of asynchronous calls are kept"`
	QueueReserve        function.Bytes    `env:"GRAPHENE_QUEUE_RESERVE" envDefault:"512Mi" doc:"space that is kept free on the disk: below, asynchronous calls get 503"`
	QueueMaxInflight    int               `env:"GRAPHENE_QUEUE_MAX_INFLIGHT" envDefault:"256" doc:"asynchronous calls that run at once"`
	QueueMaxPerFunction int               `env:"GRAPHENE_QUEUE_MAX_PER_FUNCTION" envDefault:"100" doc:"asynchronous calls of one function that run at once"`
	QueueCallbackPermit string            `env:"GRAPHENE_QUEUE_CALLBACK_PERMIT" doc:"private networks that callbacks may go to, such as 10.0.0.0/8,192.168.1.0/24"`
	QueueCallbackSecret string            `env:"GRAPHENE_QUEUE_CALLBACK_SECRET" doc:"file with the secret that signs callbacks"`
	gateway.Edge
	autoscale.Scaling
	trace.Settings
	LogFormat string `env:"GRAPHENE_LOG_FORMAT" envDefault:"text" doc:"text or json"`
	LogLevel  string `env:"GRAPHENE_LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
}

// defaultDataDir says where data goes when nobody says otherwise.
func defaultDataDir(uid int, getenv func(string) string) string {
	if uid == 0 {
		return "/var/lib/graphene"
	}
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "graphene")
	}
	return filepath.Join(getenv("HOME"), ".local", "share", "graphene")
}

// lookup reads one variable of an environment.
func lookup(environ []string) func(string) string {
	return func(name string) string {
		value := ""
		for _, kv := range environ {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				value = v
			}
		}
		return value
	}
}
