{{/* The selector of a component's pods: include "graphene.selector" "gateway" */}}
{{- define "graphene.selector" -}}
app: {{ . }}
app.kubernetes.io/name: graphene
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels of a component's pods. Nothing here changes with the version, for then each upgrade would restart
     everything, NATS included. include "graphene.podLabels" (list . "gateway") */}}
{{- define "graphene.podLabels" -}}
{{- $root := index . 0 -}}
{{- $own := include "graphene.selector" (index . 1) | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/instance" $root.Release.Name -}}
{{- merge $own $root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* Labels of an object of a component, or of none: include "graphene.labels" (list . "gateway") */}}
{{- define "graphene.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict "app.kubernetes.io/name" "graphene"
      "app.kubernetes.io/instance" $root.Release.Name
      "app.kubernetes.io/part-of" "graphene"
      "app.kubernetes.io/managed-by" $root.Release.Service
      "app.kubernetes.io/version" (include "graphene.tag" $root | trunc 63 | trimAll "-_.")
      "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- with index . 1 -}}
{{- $own = merge $own (include "graphene.selector" . | fromYaml) -}}
{{- end -}}
{{- merge $own $root.Values.commonLabels | toYaml -}}
{{- end }}

{{- define "graphene.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The image of a component: include "graphene.image" (list . "gateway" .Values.image.gateway) */}}
{{- define "graphene.image" -}}
{{- $root := index . 0 -}}
{{- index . 2 | default (printf "%s/%s:%s" (trimSuffix "/" $root.Values.image.prefix) (index . 1) (include "graphene.tag" $root)) -}}
{{- end }}

{{/* What every pod of the platform says about where it runs and as whom. */}}
{{- define "graphene.pod" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pods of a component go to different nodes where they can: include "graphene.spread" "gateway" */}}
{{- define "graphene.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "graphene.selector" . | nindent 6 }}
{{- end }}

{{- define "graphene.container" -}}
imagePullPolicy: {{ .Values.openfaasImagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* A value as people write it. Numbers come as floats, and a large one would be 4.294967296e+09. */}}
{{- define "graphene.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{/* The environment of a program: what the chart sets, a list in YAML, and the user's map, which wins. A name must
     not be there twice. include "graphene.env" (list $list .Values.gateway.env) */}}
{{- define "graphene.env" -}}
{{- $own := index . 1 | default dict -}}
{{- $all := list -}}
{{- range index . 0 | fromYamlArray -}}
{{- if not (hasKey $own .name) -}}
{{- $all = append $all . -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := $own -}}
{{- $all = append $all (dict "name" $name "value" (include "graphene.text" $value)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* What the secret of NATS that a component uses is called; empty for none. */}}
{{- define "graphene.nats.secret" -}}
{{- if .Values.nats.external.enabled -}}
{{ .Values.nats.external.secret }}
{{- else -}}
nats-auth
{{- end }}
{{- end }}

{{- define "graphene.nats.replicas" -}}
{{ .Values.nats.streamReplication | default (ternary 1 .Values.nats.replicas .Values.nats.external.enabled) }}
{{- end }}

{{/* Where a program sends spans, as its environment. */}}
{{- define "graphene.tracing.env" -}}
{{- with .Values.tracing.endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $.Values.tracing.ratio | toString | quote }}
{{- end }}
{{- end }}

{{/* Where NATS is and how a program logs in, as its environment. */}}
{{- define "graphene.nats.env" -}}
{{- $external := .Values.nats.external -}}
- name: nats_url
{{- if not $external.enabled }}
  value: nats://nats.{{ .Release.Namespace }}.svc:4222
{{- else if contains "://" (required "nats.external.enabled needs nats.external.host" $external.host) }}
  value: {{ $external.host | quote }}
{{- else }}
  value: nats://{{ $external.host }}:{{ $external.port }}
{{- end }}
{{- if not $external.enabled }}
- name: nats_user
  value: graphene
- name: nats_password_file
  value: /var/secrets/nats/password
{{- else if $external.secret }}
{{- if eq $external.secretKey "password" }}
- name: nats_user
  value: {{ required "a password for NATS needs nats.external.user" $external.user | quote }}
{{- end }}
- name: nats_{{ $external.secretKey }}_file
  value: /var/secrets/nats/{{ $external.secretKey }}
{{- end }}
{{- if and $external.enabled $external.caSecret }}
- name: nats_ca_file
  value: /var/secrets/nats/ca.crt
{{- end }}
{{- end }}

{{/* The secrets that a component reads, as the sources of one volume:
     include "graphene.secrets" (dict "root" . "basicAuth" true "nats" true) */}}
{{- define "graphene.secrets" -}}
{{- $values := .root.Values -}}
{{- if and .basicAuth $values.basic_auth }}
- secret:
    name: basic-auth
    items:
      - {key: basic-auth-user, path: basic-auth-user}
      - {key: basic-auth-password, path: basic-auth-password}
{{- end }}
{{- if and .issuerKey (include "graphene.issuing" .root) }}
- secret:
    name: issuer-key
    items:
      - {key: issuer.key, path: issuer.key}
{{- end }}
{{- if and .nats $values.async }}
{{- with include "graphene.nats.secret" .root }}
{{- $key := ternary $values.nats.external.secretKey "password" $values.nats.external.enabled }}
- secret:
    name: {{ . }}
    items:
      - {key: {{ $key }}, path: nats/{{ $key }}}
{{- end }}
{{- if and $values.nats.external.enabled $values.nats.external.caSecret }}
- secret:
    name: {{ $values.nats.external.caSecret }}
    items:
      - {key: ca.crt, path: nats/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty if the gateways sign tokens of their own: where issuers are trusted, to exchange theirs. */}}
{{- define "graphene.issuing" -}}
{{- if or .Values.iam.enabled .Values.auth }}true{{ end -}}
{{- end }}

{{/* The namespaces of functions, as a list in YAML. */}}
{{- define "graphene.namespaces" -}}
{{- prepend .Values.functionNamespaces .Values.functionNamespace | uniq | toYaml -}}
{{- end }}

{{/* The values that the chart does not know, a path in each line. files/known.yaml has those that it knows.
     include "graphene.unknown" (list .Values $known "") */}}
{{- define "graphene.unknown" -}}
{{- $known := index . 1 -}}
{{- $path := index . 2 -}}
{{- range $key, $value := index . 0 -}}
{{- $below := get $known $key -}}
{{- if not (hasKey $known $key) }}
{{ $path }}{{ $key }}
{{- else if and $below (kindIs "map" $value) -}}
{{- include "graphene.unknown" (list $value $below (printf "%s%s." $path $key)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The names of the definitions that somebody else made, one in each line. */}}
{{- define "graphene.foreignCRDs" -}}
{{- if .Values.createCRDs }}
{{- range $path, $_ := .Files.Glob "files/crd/*.yaml" }}
{{- $name := ($.Files.Get $path | fromYaml).metadata.name }}
{{- if not (include "graphene.ours" (list $ "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name)) }}
{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* "true" if an object is this release's to make: it does not exist, or this release made it.
     include "graphene.ours" (list . "v1" "Namespace" "" "openfaas-fn") */}}
{{- define "graphene.ours" -}}
{{- $root := index . 0 -}}
{{- $there := lookup (index . 1) (index . 2) (index . 3) (index . 4) -}}
{{- $by := dig "metadata" "annotations" "meta.helm.sh/release-name" "" $there -}}
{{- $in := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" $there -}}
{{- if or (not $there) (and (eq $by $root.Release.Name) (eq $in $root.Release.Namespace)) -}}
true
{{- end -}}
{{- end }}
