{{/* Parts of hooks.yaml. They take a dictionary with "me", the list of context and component that others take, and
"events" of Helm's. */}}

{{/* Also takes "weight". What a hook leaves goes once it has succeeded, and stays to be read when it has not. */}}
{{- define "kaitoflow.hook" -}}
helm.sh/hook: {{ .events }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed
{{- end -}}

{{/* Takes (list CONTEXT COMPONENT). */}}
{{- define "kaitoflow.hookAccountName" -}}
{{- default (include "kaitoflow.component" .) (first .).Values.hooks.serviceAccount.name -}}
{{- end -}}

{{/* A service account, unless the user has named one. */}}
{{- define "kaitoflow.hookAccount" -}}
{{- $account := (first .me).Values.hooks.serviceAccount -}}
{{- if not $account.name }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "kaitoflow.metadata" .me | nindent 2 }}
  annotations:
    {{- include "kaitoflow.hook" (merge (dict "weight" -2) .) | nindent 4 }}
    {{- with $account.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Also takes "name", "rules" and "namespace", which is empty for all: a role of the account, and its binding. */}}
{{- define "kaitoflow.hookRole" -}}
{{- $context := first .me -}}
{{- if $context.Values.rbac.create }}
{{- $kind := ternary "Role" "ClusterRole" (ne .namespace "") -}}
{{- $name := include "kaitoflow.clusterwide" (list $context .name) -}}
{{- range $suffix := list "" "Binding" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}{{ $suffix }}
metadata:
  name: {{ $name }}
  {{- with $.namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "kaitoflow.labels" $.me | nindent 4 }}
  annotations: {{- include "kaitoflow.hook" (merge (dict "weight" -1) $) | nindent 4 }}
{{- if $suffix }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "kaitoflow.hookAccountName" $.me }}, namespace: {{ $context.Release.Namespace }}}
{{- else }}
rules: {{- $.rules | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Also takes "tries" and "arguments": the Job that runs `kaitoflow installation ARGUMENTS`. Its name follows from
its pod, since one that was merely applied cannot be changed. */}}
{{- define "kaitoflow.hookJob" -}}
{{- $pod := include "kaitoflow.hookPod" . }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "kaitoflow.component" .me }}-{{ sha256sum $pod | trunc 8 }}
  namespace: {{ (first .me).Release.Namespace }}
  labels: {{- include "kaitoflow.labels" .me | nindent 4 }}
  annotations: {{- include "kaitoflow.hook" (merge (dict "weight" 0) .) | nindent 4 }}
spec:
  backoffLimit: {{ sub .tries 1 }}
  ttlSecondsAfterFinished: 86400
  template: {{- $pod | nindent 4 }}
{{- end -}}

{{- define "kaitoflow.hookPod" -}}
{{- $context := first .me -}}
{{- $component := last .me -}}
{{- $values := $context.Values.hooks -}}
metadata:
  labels: {{- include "kaitoflow.podLabels" (list $context $component $values) | nindent 4 }}
  {{- with $values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "kaitoflow.pod" (dict "context" $context "name" $component "user" 1000 "component" $values) | nindent 2 }}
  serviceAccountName: {{ include "kaitoflow.hookAccountName" .me }}
  restartPolicy: Never
  containers:
    - name: {{ $component }}
      image: {{ include "kaitoflow.image" (list $context "control") }}
      {{- include "kaitoflow.container" $context | nindent 6 }}
      command: {{ toJson (concat (list "kaitoflow" "installation") .arguments) }}
      env:
        - name: HOME
          value: /tmp
        - name: KAITOFLOW_NAMESPACE
          value: {{ $context.Release.Namespace }}
        - name: KAITOFLOW_NAMESPACES
          value: {{ toJson $context.Values.namespaces | quote }}
        - name: JOB
          valueFrom:
            fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}
      resources: {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
