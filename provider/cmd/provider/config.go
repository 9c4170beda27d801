package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/openfaas/faas-provider/auth"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider/kube"
)

// config is what the environment says. The names are OpenFaaS's where OpenFaaS
// has one.
type config struct {
	Listen            string            `env:"listen" envDefault:":8081" doc:"address the API is served on"`
	Namespace         string            `env:"function_namespace" envDefault:"openfaas-fn" doc:"namespace of functions that name none"`
	Namespaces        string            `env:"namespaces" doc:"further namespaces for functions, separated by commas; not used with cluster_role"`
	ClusterRole       bool              `env:"cluster_role" envDefault:"false" doc:"use every namespace that is marked openfaas=1, and make new ones; needs permissions for the whole cluster"`
	ProfilesNamespace string            `env:"profiles_namespace" doc:"namespace of profiles and of the controller's lease (default: function_namespace)"`
	IAM               bool              `env:"iam" envDefault:"false" doc:"follow the resources JwtIssuer, Policy and Role in profiles_namespace, and the keys of service accounts, and tell the gateways"`
	ServiceAccounts   string            `env:"service_account_audience" doc:"with iam: believe tokens of the cluster's service accounts that are for one of these audiences, separated by commas, as a JwtIssuer called kubernetes would; empty believes none"`
	APIKeys           bool              `env:"api_keys" envDefault:"false" doc:"keep API keys in the secret api-keys of profiles_namespace, which must exist"`
	SigningKeys       bool              `env:"signing_keys" envDefault:"false" doc:"make new keys for the platform's own tokens when asked to, in the secret issuer-key of profiles_namespace, which must exist"`
	Endpoints         string            `env:"endpoints" envDefault:"pods" doc:"pods: functions are called by the addresses of their pods; service: through their Services, as a service mesh needs"`
	BasicAuth         bool              `env:"basic_auth" envDefault:"true" doc:"ask for a user name and a password; false lets everybody who reaches the port do everything"`
	SecretMountPath   string            `env:"secret_mount_path" envDefault:"/run/secrets/" doc:"directory of the files basic-auth-user and basic-auth-password"`
	LeaderElection    bool              `env:"leader_election" envDefault:"true" doc:"agree with other providers on one that is the controller; needs a lease in profiles_namespace"`
	Workers           int               `env:"reconcile_workers" envDefault:"4" doc:"functions that the controller works on at once"`
	ImagePullPolicy   string            `env:"image_pull_policy" envDefault:"Auto" doc:"of functions' images: Always, IfNotPresent, Never, or Auto, which is IfNotPresent for those that are named by digest and Always for the others"`
	NonRoot           bool              `env:"set_nonroot_user" envDefault:"true" doc:"run functions as user 12000; false: as the image says, which must not be root"`
	Settle            function.Duration `env:"settle" envDefault:"2s" doc:"for how long a pod that is to end goes on taking calls, until every gateway knows"`
	ReadTimeout       function.Duration `env:"read_timeout" envDefault:"60s" doc:"longest time a request may take to arrive"`
	WriteTimeout      function.Duration `env:"write_timeout" envDefault:"60s" doc:"longest time an answer may take; streams are exempt"`
	DrainTimeout      function.Duration `env:"drain_timeout" envDefault:"25s" doc:"longest time requests in flight may take after SIGTERM"`
	Kubeconfig        string            `env:"KUBECONFIG" doc:"file that says where the Kubernetes API is; not needed in a pod"`
	conf.Log
}

// check reports everything that is wrong with c by itself.
func (c config) check() error {
	var problems []string
	oneOf := func(name, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			problems = append(problems, fmt.Sprintf("%s is %q: want %s", name, value, strings.Join(allowed, ", ")))
		}
	}
	oneOf("endpoints", c.Endpoints, "pods", "service")
	oneOf("image_pull_policy", c.ImagePullPolicy, kube.PullAuto, "Always", "IfNotPresent", "Never")
	if _, err := c.Logger(io.Discard); err != nil {
		problems = append(problems, err.Error())
	}
	if c.ServiceAccounts != "" && !c.IAM {
		problems = append(problems, "service_account_audience needs iam=true")
	}
	if c.Workers < 1 {
		problems = append(problems, fmt.Sprintf("reconcile_workers is \"%d\": want a whole number, 1 or more", c.Workers))
	}
	for _, ns := range append(c.namespaces(), c.Namespace) {
		if err := function.ValidNamespace(ns); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(problems) > 0 {
		return fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return nil
}

func (c config) namespaces() []string { return list(c.Namespaces) }

// list reads what is separated by commas.
func list(text string) []string {
	var all []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

// options returns those of the runtime.
func (c config) options(identity string, log *slog.Logger) (kube.Options, error) {
	var client *rest.Config
	var err error
	if c.Kubeconfig != "" {
		client, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	} else {
		client, err = rest.InClusterConfig()
	}
	if err != nil {
		return kube.Options{}, fmt.Errorf("find the Kubernetes API: %w", err)
	}
	client.UserAgent = "graphene-provider/" + version
	if !c.LeaderElection {
		identity = ""
	}
	return kube.Options{
		Client:            client,
		DefaultNamespace:  c.Namespace,
		Namespaces:        c.namespaces(),
		AllNamespaces:     c.ClusterRole,
		ProfilesNamespace: cmp.Or(c.ProfilesNamespace, c.Namespace),
		IAM:               c.IAM,
		ServiceAccounts:   list(c.ServiceAccounts),
		APIKeySecret:      c.APIKeys,
		SigningKeySecret:  c.SigningKeys,
		Pods:              kube.PodConfig{ImagePullPolicy: c.ImagePullPolicy, ImageUser: !c.NonRoot, Settle: c.Settle.Std()},
		ThroughService:    c.Endpoints == "service",
		Identity:          identity,
		Workers:           c.Workers,
		Log:               log,
	}, nil
}

// credentials returns what callers must know, or nil if they need not.
func (c config) credentials() (*auth.BasicAuthCredentials, error) {
	if !c.BasicAuth {
		return nil, nil
	}
	known, err := (&auth.ReadBasicAuthFromDisk{SecretMountPath: c.SecretMountPath}).Read()
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	if known.User == "" || known.Password == "" {
		return nil, fault.Invalid.Errorf("read credentials: a file in %s is empty", c.SecretMountPath)
	}
	return known, nil
}
