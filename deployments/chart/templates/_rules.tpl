{{/* What each service account may do in the namespaces of Workspaces; what it sees of all others
when those are named; and what it may do with what lies in none. tests/chart holds the proof. */}}

{{- define "kaitoflow.rules.watcher" -}}
# Follows Workspaces, keeps its finalizer on them, and says in their status what it did.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, list, watch, patch]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [patch]}
# Sees whether servers are ready, and what is left of those that were stopped.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
# Stops what runs when a person asks for it.
- {apiGroups: [apps], resources: [statefulsets], verbs: [list, delete]}
- {apiGroups: [batch], resources: [jobs], verbs: [list, delete]}
{{- end -}}

{{- define "kaitoflow.rules.watcher.watching" -}}
# One watch shows what is in all namespaces; what may be done is another matter.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [list, watch]}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.watcher.cluster" -}}
# Begins to watch when the CRD comes, and again when it has changed.
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.worker" -}}
# Applies a Workspace that came from a form, keeps its status, drops its finalizer at the end.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, create, patch]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [patch]}
# Lets what it makes be owned by its Workspace, where the cluster asks for this right.
- {apiGroups: [kaito.sh], resources: [workspaces/finalizers], verbs: [update]}
# What a Workspace is made into.
- {apiGroups: [""], resources: [configmaps, services], verbs: [get, list, create, patch, delete]}
- {apiGroups: [apps], resources: [statefulsets], verbs: [get, list, create, patch, delete]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch, create, patch, delete]}
# Follows the pods and what is said of them.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
- {apiGroups: [""], resources: [events], verbs: [create, list]}
# Whether the Secrets that a Workspace names are there; never a list of them.
- {apiGroups: [""], resources: [secrets], verbs: [get]}
{{- end -}}

{{- define "kaitoflow.rules.worker.watching" -}}
# One watch shows what is in all namespaces; what may be done is another matter.
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
- {apiGroups: [batch], resources: [jobs], verbs: [list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.worker.cluster" -}}
# Waits for nodes that fit.
- {apiGroups: [""], resources: [nodes], verbs: [get, list]}
{{- if ne .Values.nodes.provisioner "byo" }}
# Claims nodes, gives them back, and sees who else still runs on one.
- {apiGroups: [karpenter.sh], resources: [nodeclaims], verbs: [list, create, patch, delete]}
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [list]}
{{- if eq .Values.nodes.provisioner "aks" }}
- {apiGroups: [karpenter.sh], resources: [nodeclaims/status], verbs: [patch]}
{{- end }}
{{- end }}
{{- end -}}
