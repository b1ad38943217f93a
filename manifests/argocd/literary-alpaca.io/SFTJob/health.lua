-- Health for Argo CD. The conditions are the same for every kind of literary-alpaca.io.
local health = { status = "Progressing", message = "Waiting for the operator" }

local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration == -1 then
  return health
end
-- A status that speaks of an earlier spec says nothing of this one.
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the operator to see the new spec"
  return health
end

local message = ""
local is = {}
for _, condition in ipairs(status.conditions) do
  is[condition.type] = condition.status == "True"
  if condition.type == "Ready" then
    message = condition.reason
    if condition.message ~= nil and condition.message ~= "" then
      message = condition.reason .. ": " .. condition.message
    end
  end
end

health.message = message
if is.Failed or is.Stalled then
  health.status = "Degraded"
elseif is.Suspended then
  health.status = "Suspended"
elseif is.Ready and not is.Reconciling then
  health.status = "Healthy"
elseif status.progress ~= nil and status.progress.display ~= nil then
  health.message = message .. " (" .. status.progress.display .. ")"
end
return health
