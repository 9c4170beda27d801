#!/usr/bin/env bash
# e2e.sh runs the end-to-end suite against a platform that the chart installs:
# in the project's own cluster, which it brings up and takes down, or, with
# KUBECONFIG, in another one. `make e2e` calls it; CONTRIBUTING.md says how.
#
#   KUBECONFIG  another cluster, with REGISTRY, which this machine pushes to and
#               the cluster pulls from; GATEWAY, if the gateway has an address
#               (otherwise kubectl forwards a port); NATS_IMAGE and PYTHON_IMAGE,
#               if Docker Hub cannot be reached, and TARGET of the latter
#   RUN         a regular expression: only tests whose names match
#   REPORT      a file to write the measurements to
#   KEEP        not empty: leave the cluster up, for looking into it
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${NAME:-e2e}
if [ -n "${REPORT:-}" ]; then
	REPORT=$(realpath "$REPORT") # which fails now, and not after the suite, where there is no such folder
fi
logs=bin/e2e-logs
other=${KUBECONFIG:-}
work=$(mktemp -d)
tag=e2e-$(git rev-parse --short HEAD)-$$

say() { printf 'e2e: %s (%ss)\n' "$*" "$SECONDS"; }

# What the platform and its functions printed, for looking into a failure.
collect() {
	rm -rf "$logs" && mkdir -p "$logs"
	kubectl get all,functions,endpointslices -A -o wide >"$logs/objects.txt" 2>&1 || true
	kubectl get events -A --sort-by=.lastTimestamp >"$logs/events.txt" 2>&1 || true
	for ns in openfaas openfaas-fn; do
		kubectl describe pods -n $ns >"$logs/pods-$ns.txt" 2>&1 || true
		for pod in $(kubectl get pods -n $ns -o name); do
			kubectl logs -n $ns "$pod" --all-containers --prefix >"$logs/$ns-${pod#pod/}.log" 2>&1 || true
			kubectl logs -n $ns "$pod" --all-containers --prefix -p >"$logs/$ns-${pod#pod/}.previous.log" 2>/dev/null || rm -f "$logs/$ns-${pod#pod/}.previous.log"
		done
	done
	say "logs are in $logs"
}

finish() {
	status=$?
	trap - EXIT
	if [ $status != 0 ] && command -v kubectl >/dev/null; then collect; fi
	if [ -n "${forward:-}" ]; then kill "$forward" || true; fi
	if [ -n "${identity:-}" ]; then wait "$identity" || true; fi
	if [ -z "${KEEP:-}" ]; then
		if [ -z "$other" ]; then
			"$work/cluster" -name "$name" down || true
		else
			helm uninstall graphene -n openfaas --wait >/dev/null || true
		fi
	fi
	rm -rf "$work"
	exit $status
}
trap finish EXIT

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	missing=()
	command -v nginx >/dev/null || missing+=(nginx-light)
	command -v mvn >/dev/null || missing+=(maven openjdk-17-jre-headless)
	command -v chromium >/dev/null || missing+=(chromium)
	if [ ${#missing[@]} != 0 ]; then
		apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null || say "${missing[*]} cannot be installed"
	fi
fi
identity=
if [ -z "$other" ] && [ -z "${RUN:-}" ]; then
	say "try logins with Keycloak and a browser, beside the rest"
	GRAPHENE_TEST_IDENTITY=1 go test -count=1 -timeout 25m ./test/identity >"$work/identity" 2>&1 &
	identity=$!
fi
go -C test/cluster build -o "$work/cluster" .
if [ -z "$other" ]; then
	say "bring up a cluster"
	"$work/cluster" -name "$name" up >"$work/up" || { cat "$work/up"; exit 1; }
	eval "$("$work/cluster" -name "$name" env)"
	export CLUSTER="$work/cluster -name $name"
	# A volume for the queue, which nobody provisions here.
	$CLUSTER exec install -d -o 65532 -g 65532 /run/nats
	kubectl apply -f - >/dev/null <<-YAML
		apiVersion: v1
		kind: PersistentVolume
		metadata: {name: nats}
		spec: {capacity: {storage: 10Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /run/nats}}
	YAML
	NATS_IMAGE=docker.io/library/nats:test
	PYTHON_IMAGE=$REGISTRY/library/python:test
	TARGET=linux/$(go env GOARCH)/cp311/glibc
	export PLATFORMS=linux/$(go env GOARCH)
else
	: "${REGISTRY:?says where the cluster pulls images from that this machine pushes}"
	for tool in kubectl helm; do command -v $tool >/dev/null || { echo "e2e: $tool is needed for another cluster" >&2; exit 1; }; done
fi

if [ -z "$other" ] && [ -z "${RUN:-}" ]; then
	say "see that a cluster leaves nothing behind"
	go -C test/cluster test -count=1 .
	say "try the chart on an API server"
	(
		eval "$("$work/cluster" -name "$name" light up | grep '^export')"
		status=0
		GRAPHENE_TEST_KUBECONFIG=$KUBECONFIG go -C test/chart test -count=1 . || status=$?
		"$work/cluster" -name "$name" light down
		exit $status
	)
fi

if [ -z "$other" ] && [ -z "${RUN:-}" ]; then
	say "hold the provider to the contract of all runtimes"
	GRAPHENE_TEST_KUBECONFIG=$KUBECONFIG GRAPHENE_TEST_REGISTRY=$REGISTRY go test -count=1 ./provider/kube
	kubectl delete crd functions.openfaas.com profiles.openfaas.com >/dev/null # the chart has its own
	kubectl delete namespace openfaas-fn --ignore-not-found >/dev/null
fi

if [ -n "$identity" ]; then
	say "wait for the logins"
	status=0
	wait "$identity" || status=$?
	identity=
	[ $status = 0 ] || { cat "$work/identity"; exit 1; }
fi

say "make and push images"
make -s images PUSH="$REGISTRY/graphene" VERSION="$tag" >"$work/images" 2>&1 || { tail -30 "$work/images"; exit 1; }

# The password must not change when tests upgrade and roll back.
cat >"$work/values.yaml" <<YAML
image: {prefix: $REGISTRY/graphene, tag: $tag}
clusterRole: true
exposeServices: true
${NATS_IMAGE:+nats: {image: "$NATS_IMAGE"\}}
build:
  registry: $REGISTRY/functions
  ${PYTHON_IMAGE:+pythonImage: $PYTHON_IMAGE}
  ${TARGET:+target: $TARGET}
YAML

# What the upgrade is from: chart and images of the commit before.
previous=
if git rev-parse -q --verify HEAD~1:charts/graphene >/dev/null && [ -z "${RUN:-}" ]; then
	say "make and push the images of the commit before"
	previous=$work/previous
	mkdir "$previous"
	git archive HEAD~1 | tar -x -C "$previous"
	make -s -C "$previous" images PUSH="$REGISTRY/graphene" VERSION="$tag-before" COMMIT="$(git rev-parse HEAD~1)" \
		>"$work/images" 2>&1 || { tail -30 "$work/images"; exit 1; }
fi

say "install the chart"
helm upgrade --install graphene charts/graphene -n openfaas --create-namespace -f "$work/values.yaml" --wait --timeout 3m >"$work/helm" 2>&1 ||
	{ cat "$work/helm"; exit 1; }
if [ -z "${GATEWAY:-}" ]; then
	kubectl port-forward -n openfaas svc/gateway :8080 >"$work/forward" &
	forward=$!
	until grep -q Forwarding "$work/forward"; do sleep 0.1; done
	GATEWAY=http://$(grep -om1 '127.0.0.1:[0-9]*' "$work/forward")
fi

say "run the suite"
go test -count=1 -timeout 45m ${VERBOSE:+-v} ./test/e2e -run "${RUN:-.}" \
	-gateway "$GATEWAY" -values "$work/values.yaml" -tag "$tag" -previous "$previous" ${REPORT:+-report "$REPORT"} 
say "done"
