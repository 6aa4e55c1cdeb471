{{/* Names, labels and the parts that all pods share. */}}

{{- define "kaitoflow.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Takes (list CONTEXT COMPONENT), as do those below: the name of a component's objects. */}}
{{- define "kaitoflow.component" -}}
{{- printf "%s-%s" (include "kaitoflow.fullname" (first .)) (last .) -}}
{{- end -}}

{{/* Cluster-wide objects of two releases must not meet. */}}
{{- define "kaitoflow.clusterwide" -}}
{{- $context := first . -}}
{{- $name := include "kaitoflow.component" . -}}
{{- if hasPrefix (printf "%s-" $context.Release.Namespace) $name -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" $context.Release.Namespace $name -}}
{{- end -}}
{{- end -}}

{{- define "kaitoflow.selector" -}}
{{- $context := first . -}}
app.kubernetes.io/name: {{ default $context.Chart.Name $context.Values.nameOverride }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* Takes (list CONTEXT NAME COMPONENT): labels of its pods. Azure's webhook gives a pod its identity only
when it has the label, whatever its service account says; agent pools are the worker's to make. */}}
{{- define "kaitoflow.podLabels" -}}
{{- $component := index . 2 -}}
{{- $account := default dict $component.serviceAccount -}}
{{- $identity := dict -}}
{{- $makesPools := and (eq (index . 1) "worker") (eq (first .).Values.nodes.provisioner "aks") -}}
{{- if or $makesPools (hasKey (default dict $account.annotations) "azure.workload.identity/client-id") -}}
{{- $identity = dict "azure.workload.identity/use" "true" -}}
{{- end -}}
{{- $selector := include "kaitoflow.selector" (list (index . 0) (index . 1)) | fromYaml -}}
{{- toYaml (merge $selector $component.podLabels $identity) -}}
{{- end -}}

{{- define "kaitoflow.labels" -}}
{{- $context := first . -}}
{{ include "kaitoflow.selector" . }}
app.kubernetes.io/part-of: kaitoflow
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version }}
{{- end -}}

{{- define "kaitoflow.metadata" -}}
name: {{ include "kaitoflow.component" . }}
namespace: {{ (first .).Release.Namespace }}
labels: {{- include "kaitoflow.labels" . | nindent 2 }}
{{- end -}}

{{/* The same for what belongs to the nodes, and lies where their own programs do. */}}
{{- define "kaitoflow.nodeMetadata" -}}
name: {{ include "kaitoflow.component" . }}
namespace: {{ (first .).Values.devicePlugin.namespace }}
labels: {{- include "kaitoflow.labels" . | nindent 2 }}
{{- end -}}

{{/* Takes (list CONTEXT IMAGE): where IMAGE of .Values.image is pulled from. */}}
{{- define "kaitoflow.image" -}}
{{- $context := first . -}}
{{- $image := get $context.Values.image (last .) -}}
{{- include "kaitoflow.checkRegistry" $context.Values.image.registry -}}
{{- include "kaitoflow.checkImage" (list (last .) $image) -}}
{{- $repository := $image.repository -}}
{{- with $context.Values.image.registry -}}
{{- $withoutHost := regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "" -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $withoutHost -}}
{{- end -}}
{{- $repository -}}
{{- if $image.digest -}}
@{{ $image.digest }}
{{- else -}}
:{{ default $context.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "kaitoflow.serviceAccount" -}}
{{- $account := (get (first .).Values (last .)).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- include "kaitoflow.component" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* What every pod has. Takes (dict "context" "name" "user" "component" of .Values). */}}
{{- define "kaitoflow.pod" -}}
# A Service's variables would be taken for settings: KAITOFLOW_WORKER_PORT=tcp://...
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .user }}
  runAsGroup: {{ int .user }}
  fsGroup: {{ int .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .context.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .component.affinity }}
affinity: {{- toYaml .component.affinity | nindent 2 }}
{{- else if hasKey .component "replicas" }}
# Replicas on different nodes, if that can be.
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "kaitoflow.selector" (list .context .name) | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "kaitoflow.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Environment variables of a dictionary. */}}
{{- define "kaitoflow.environment" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* What watcher and worker need to speak to Prefect. */}}
{{- define "kaitoflow.client" -}}
- name: HOME
  value: /tmp
- name: KAITOFLOW_HOME
  value: /tmp/kaitoflow
- name: KAITOFLOW_PLATFORM
  value: kubernetes
- name: KAITOFLOW_NAMESPACES
  value: {{ toJson .Values.namespaces | quote }}
- name: PREFECT_HOME
  value: /tmp/prefect
- name: PREFECT_API_URL
  value: {{ include "kaitoflow.prefectUrl" . }}
# Outlasts a server that is away for four minutes.
- name: PREFECT_CLIENT_MAX_RETRIES
  value: "7"
- name: PREFECT_LOGGING_EXTRA_LOGGERS
  value: tasks,flows
# There is no terminal, and to look for what to colour takes as long as the rest of a line.
- name: PREFECT_LOGGING_COLORS
  value: "false"
{{- if .Values.prefect.externalUrl }}
{{- with .Values.prefect.auth.existingSecret }}
- name: PREFECT_API_AUTH_STRING
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: auth-string, optional: true}
- name: PREFECT_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: api-key, optional: true}
{{- end }}
{{- else if .Values.prefect.auth.enabled }}
- name: PREFECT_API_AUTH_STRING
  valueFrom:
    secretKeyRef: {name: {{ include "kaitoflow.authSecret" . }}, key: auth-string}
{{- end }}
{{- end -}}

{{- define "kaitoflow.prefectUrl" -}}
{{- if .Values.prefect.externalUrl -}}
{{- trimSuffix "/" .Values.prefect.externalUrl -}}
{{- else -}}
http://{{ include "kaitoflow.component" (list . "prefect") }}.{{ .Release.Namespace }}.svc:4200/api
{{- end -}}
{{- end -}}

{{- define "kaitoflow.authSecret" -}}
{{- default (include "kaitoflow.component" (list . "prefect-auth")) .Values.prefect.auth.existingSecret -}}
{{- end -}}

{{- define "kaitoflow.postgresqlSecret" -}}
{{- default (include "kaitoflow.component" (list . "postgresql")) .Values.database.postgresql.existingSecret -}}
{{- end -}}

{{/* Whether the chart runs its own database, as "true" or nothing. */}}
{{- define "kaitoflow.runsPostgresql" -}}
{{- if and (not .Values.prefect.externalUrl) (eq .Values.database.kind "postgresql") }}true{{ end -}}
{{- end -}}

{{/* The passwords that nobody has given, as `kaitoflow installation make-passwords` takes them. */}}
{{- define "kaitoflow.passwords" -}}
{{- if and (not .Values.prefect.externalUrl) .Values.prefect.auth.enabled (not .Values.prefect.auth.existingSecret) }}
- {{ include "kaitoflow.authSecret" . }}/auth-string=kaitoflow
{{- end }}
{{- if and (include "kaitoflow.runsPostgresql" .) (not .Values.database.postgresql.existingSecret) }}
- {{ include "kaitoflow.postgresqlSecret" . }}/password
{{- end }}
{{- end -}}
