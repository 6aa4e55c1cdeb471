{{/* What each service account may do in the namespaces of Workspaces; tests/chart holds the proof. */}}

{{- define "kaitoflow.rules.watcher" -}}
# Follows Workspaces, keeps its finalizer on them, and says in their status what it did.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, list, watch, patch]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [get, patch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
# Sees what is left of a Workspace's pods.
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [apps], resources: [statefulsets], verbs: [get, list, watch]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch]}
{{- end -}}

{{- define "kaitoflow.rules.worker" -}}
# Applies a Workspace that came from a form, and keeps every status.
- {apiGroups: [kaito.sh], resources: [workspaces], verbs: [get, create, patch]}
- {apiGroups: [kaito.sh], resources: [workspaces/status], verbs: [get, patch]}
# Lets what it makes be owned by its Workspace, where the cluster asks for this right.
- {apiGroups: [kaito.sh], resources: [workspaces/finalizers], verbs: [update]}
# What a Workspace is made into.
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- {apiGroups: [apps], resources: [statefulsets], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [batch], resources: [jobs], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, create, delete]}
# Follows the pods and what is said of them.
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
- {apiGroups: [""], resources: [events], verbs: [create, list]}
# Whether the Secrets that a Workspace names are there; never a list of them.
- {apiGroups: [""], resources: [secrets], verbs: [get]}
{{- end -}}
