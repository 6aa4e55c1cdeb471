"""What lies on other machines: addresses that may be asked, and registries.

Speaks HTTP by httpx2 and imports the contract only, so that the plan may look with the same code
that a pod program works with.
"""

import logging

# The client logs each request with its whole address, whose query and password may be secret.
logging.getLogger("httpx2").setLevel(logging.WARNING)
