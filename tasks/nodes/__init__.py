"""Where nodes come from, and how they go back.

`provisioner.py` is the seam; behind it stand this machine (`local`), nodes that a cluster has
(`byo`), and nodes by claim (`claims/`), which somebody else fulfils, or we do on AKS (`aks/`).
`garbage/` finds machines that nobody needs. `current.py` picks what the settings name.
"""
